"""The monitor, ``python -m app.monitor``: prints a line for each change of a task's state.

    follow.py    follows the event log, keeps the position, hands each message to the sinks
    lines.py     the sink that prints
    names.py     the names of tasks, which most events lack
    position.py  the position on disk

A sink that comes later (history, handlers) is one more object beside the printer; see :class:`app.monitor.follow.Sink`.
"""
