"""The monitor, ``python -m app.monitor``: what happened to every task.

It follows the event log by `app/events`, which Flower shares.

recorder.py   does everything that is to be done with them, in one transaction
history/      the searchable history, in SQLite
lines.py      a line for each change of a task's state
names.py      the names of tasks, for readers of the log without a history
handlers/     Python functions, a webhook, a command: each with its own position and retries
metrics.py    for Prometheus
hub.py        changes as they happen
web/          the API and the page
"""
