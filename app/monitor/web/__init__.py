"""The monitor's page and API: one Tornado server in the monitor's main thread.

    server.py      the server: addresses, limits, start and stop
    base.py        what all handlers share: security headers, who asks, errors
    access.py      the token, the two passwords, and how often one may be wrong
    login.py       login and logout
    parameters.py  parameters, read strictly
    api.py         JSON for programs; health, metrics; revoke and retry
    actions.py     revoke and retry, by Celery, in a thread
    live.py        /events
    broadcast.py   changes for all readers of /events, each bounded
    queries.py     questions to the history, in threads
    recent.py      answers that many pages ask for
    openapi.py     the API's description
    pages.py       the pages; show.py and charts.py: how things look there
    templates/     their HTML, escaped everywhere
    style.py       their style, a file a concern in style/, sent as one
    static/        their scripts, sent as they are written

All links are relative, so that a proxy may serve it below a prefix.
"""
