"""Revokes that last: each is broadcast, as Celery does, and also kept in the RabbitMQ stream `celery.revoked`.

    log.py        appends to the stream, and reads it
    control.py    the app's Control, which does both
    known.py      what a worker knows, for its two threads
    reader.py     the stream's reader, which other threads can wait for
    pauses.py     which of its queues are paused; the stream tells that too
    step.py       the worker's part: it reads the stream before it takes its first task, and follows it while it runs

A broadcast reaches the workers that listen now. The stream reaches all others: those that were down, killed, cut off, or
did not exist yet.
"""
