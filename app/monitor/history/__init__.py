"""The task history: one SQLite file that is an index of the event log.

    schema.py      tables, versions, and what happens to a file that is damaged
    events.py      bytes of the log -> typed events; what is malformed is counted
    task.py        one task and what each event makes of it
    store.py       the writer: events, offset and everything derived from them in one transaction
    aggregates.py  counts by minute, for charts
    words.py       names of tasks, workers and queues as numbers
    unused.py      names that nothing has any more
    attention.py   tasks that nobody claims, that stall, whose worker fell silent
    retention.py   what is forgotten
    reader.py      the reader: one task, families, workers, charts, and searches:
    search.py      tasks that match, with a bounded amount of work
    filter.py      what may be asked, and pages
    vocabulary.py  numbers as names again
    family.py      tasks that came of one, as a tree
    clock.py       times as text

The file holds nothing that the log does not: it may be deleted at any time, and is then made again from the log.
"""
