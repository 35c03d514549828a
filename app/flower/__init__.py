"""Flower, started so that it forgets nothing: ``python -m app.flower``.

Its classes are Flower's own but for three things: events come from the event log instead of a queue of its own, its
state is kept in a file with the place in that log, and it tells whether it is ready.
"""
