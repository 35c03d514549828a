"""The API's description, as OpenAPI 3.1 has it. A test holds it against the routes and their parameters."""

from __future__ import annotations

from typing import Any

from app.event_types import TYPES
from app.monitor.web.base import KEPT
from app.monitor.web.sources import ATTENTION, SORTS, STATES

__all__ = ["document"]

VERSION = "1"


def of(kind: str, description: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "description": description, **more}


def maybe(kind: str, description: str, **more: Any) -> dict[str, Any]:
    return {"type": [kind, "null"], "description": description, **more}


def time(description: str) -> dict[str, Any]:
    return maybe("string", f"{description}; RFC 3339, UTC, milliseconds.", format="date-time")


def obj(required: list[str] | None = None, /, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, **({"required": required} if required else {})}


def array(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def query(name: str, description: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": {"type": "string", **schema}}


def choices(name: str, description: str, values: tuple[str, ...]) -> dict[str, Any]:
    """A parameter that takes several values, separated by commas or given several times."""
    schema = {"type": "array", "items": {"type": "string", "enum": list(values)}}
    return {"name": name, "in": "query", "description": description, "explode": False, "schema": schema}


def json(schema: dict[str, Any], description: str = "The answer.") -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def text(kind: str, description: str) -> dict[str, Any]:
    return {"description": description, "content": {kind: {"schema": {"type": "string"}}}}


ERRORS = {
    "400": "A parameter is wrong; the error says which and what it takes.",
    "401": "No login and no token, or a wrong one.",
    "403": "A viewer, or a form that is not of this monitor.",
    "404": "The history knows no such task.",
    "409": "It can't be done to this task; the error says why.",
    "429": "Too many wrong tokens from this address; see Retry-After.",
    "502": "The broker refuses it.",
    "503": "Not now; the error says why.",
    "504": "Nobody answered in time.",
}


def answers(good: dict[str, Any], *errors: str) -> dict[str, Any]:
    return {"200": good, **{code: json(ref("Error"), ERRORS[code]) for code in errors}}


def operation(summary: str, good: dict[str, Any], *errors: str, **more: Any) -> dict[str, Any]:
    name = more.pop("id")
    usual = () if more.get("security") == [] else ("400", "401", "429")
    return {
        "operationId": name,
        "summary": summary,
        "responses": answers(good, *sorted({*usual, *errors})),
        **more,
    }


ID = {
    "name": "id",
    "in": "path",
    "required": True,
    "description": "A task's id.",
    "schema": {"type": "string"},
}
WHEN = "RFC 3339 (2026-11-22T13:20Z), or an age: 90s, 15m, 1h, 2d"
FILTERS = [
    choices("state", "Any of these states.", STATES),
    choices("attention", "What needs attention, in any of these ways.", (*ATTENTION, "any")),
    query("name", "The task's name; * stands for any characters."),
    query("worker", "The worker that had it last."),
    query("queue", "The queue it was sent to."),
    query("since", f"Last change not before this. {WHEN}."),
    query("until", f"Last change before this. {WHEN}."),
    query("text", "In arguments, result, exception or traceback, in either case; or an id."),
    query("root", "Tasks of this root."),
    query(
        "sort",
        "A minus sign puts the largest first. By runtime and wait: among the 5,000 that changed last and match.",
        enum=list(SORTS),
        default="-time",
    ),
    query("limit", "Tasks on a page.", type="integer", minimum=1, maximum=1000, default=50),
    query("cursor", "`next` of the page before."),
]


def task_fields() -> dict[str, Any]:
    return {
        "id": of("string", "The task's id."),
        "name": of("string", "Its name; `unknown` where no event had it."),
        "state": of("string", "The last state.", enum=list(STATES)),
        "attention": maybe("string", "Why it needs attention, if it does.", enum=[*ATTENTION, None]),
        "attention_since": time("Since when"),
        "queue": maybe("string", "Where it was sent to."),
        "worker": maybe("string", "The worker that had it last."),
        "args": maybe("string", "Positional arguments, as Python shows them; long ones are cut."),
        "kwargs": maybe("string", "Named arguments, likewise."),
        "retries": of("integer", "How often it was retried."),
        "attempts": of("integer", "How often a worker received it."),
        "time": time("The last change"),
        "sent": time("Sent"),
        "received": time("Received by a worker"),
        "started": time("Started"),
        "finished": time("Ended"),
        "eta": maybe("string", "Not to be run before this."),
        "expires": maybe("string", "Not to be run after this."),
        "runtime": maybe("number", "Seconds that it ran."),
        "wait": maybe("number", "Seconds in the queue, from its ETA on if it had one."),
        "result": maybe("string", "The result, as Python shows it."),
        "exception": maybe("string", "What was raised."),
        "root": maybe("string", "The first task of its family."),
        "parent": maybe("string", "The task that sent it."),
    }


SCHEMAS = {
    "Error": obj(["error"], error=of("string", "What is wrong and what to do, in one line.")),
    "Task": obj(["id", "name", "state"], **task_fields()),
    "FullTask": {
        "allOf": [
            ref("Task"),
            obj(
                ["steps", "children"],
                traceback=maybe("string", "Where it was raised."),
                sender=maybe("string", "Who sent it."),
                steps=array(ref("Step")),
                children=array(ref("Task")),
            ),
        ]
    },
    "Step": obj(
        ["state", "time"],
        state=of("string", "A state, or UNCLAIMED, STALLED, ORPHANED, CANCELLED."),
        time=time("When"),
        worker=maybe("string", "On which worker."),
        note=maybe("string", "More of it."),
    ),
    "Page": obj(
        ["tasks", "next"],
        tasks=array(ref("Task")),
        next=maybe(
            "string",
            "`cursor` for what follows. A page may be short, or empty, and still have one: a search through text ends "
            "after a while, and goes on with it.",
        ),
    ),
    "Worker": obj(
        ["name", "alive"],
        name=of("string", "Its node name."),
        alive=of("boolean", "Whether it beats."),
        heartbeat=time("Its last beat"),
        active=maybe("integer", "Tasks that it runs now."),
        processed=maybe("integer", "Tasks that it has run."),
        pid=maybe("integer", "Its process id."),
        software=maybe("string", "Its Celery."),
        load={"type": ["array", "null"], "items": {"type": "number"}, "description": "Load of its host: 1, 5, 15 min."},
        since=time("First heard of"),
    ),
    "Point": obj(
        ["time"],
        time=time("When this span of time begins"),
        succeeded=of("integer", "Tasks that succeeded in it."),
        failed=of("integer", "Tasks that failed."),
        retried=of("integer", "Retries."),
        revoked=of("integer", "Tasks revoked."),
        runtime_mean=maybe("number", "Seconds that those which ended ran, on average."),
        runtime_max=maybe("number", "Seconds that the longest ran."),
    ),
    "Counts": obj(
        ["states", "attention"],
        states={"type": "object", "additionalProperties": {"type": "integer"}, "description": "Last 24 h, by state."},
        attention={"type": "object", "additionalProperties": {"type": "integer"}, "description": "Now, by kind."},
    ),
}


def paths() -> dict[str, Any]:
    tasks = json(obj(["tasks"], tasks=array(ref("Task"))))
    form = {"terminate": of("boolean", "Also end it where it runs (SIGTERM).", default=False)}
    return {
        "/tasks": {
            "get": operation("Search the history.", json(ref("Page")), "503", id="tasks", parameters=FILTERS),
        },
        "/tasks/{id}": {
            "get": operation(
                "One task, with its steps.", json(ref("FullTask")), "404", "503", id="task", parameters=[ID]
            )
        },
        "/tasks/{id}/family": {
            "get": operation("All tasks of its root, 500 at most.", tasks, "404", "503", id="family", parameters=[ID])
        },
        "/tasks/{id}/revoke": {
            "post": operation(
                "Make workers refuse it, also those that start later.",
                json(
                    obj(
                        id=of("string", "The task."),
                        terminate=of("boolean", "Whether it was to be ended, too."),
                        answered=array(of("string", "A worker that knows.")),
                        silent=array(
                            of("string", "A worker that did not answer. It reads of the revoke when it is back.")
                        ),
                    )
                ),
                *("403", "404", "409", "502", "503"),
                id="revoke",
                parameters=[ID],
                requestBody={"content": {"application/json": {"schema": obj(**form)}}},
            )
        },
        "/tasks/{id}/retry": {
            "post": operation(
                "Send it again under a new id. It keeps name, queue and arguments, not its root and parent.",
                json(
                    obj(
                        id=of("string", "The new task."),
                        retry_of=of("string", "The old one."),
                        name=of("string", "Its name."),
                        queue=of("string", "Its queue."),
                    )
                ),
                *("403", "404", "409", "502", "503", "504"),
                id="retry",
                parameters=[ID],
            )
        },
        "/workers": {
            "get": operation("The workers heard of.", json(obj(workers=array(ref("Worker")))), "503", id="workers")
        },
        "/counts": {"get": operation("Tasks by state.", json(ref("Counts")), "503", id="counts")},
        "/chart": {
            "get": operation(
                "Outcomes and runtimes over time, in whole minutes.",
                json(obj(points=array(ref("Point")))),
                "503",
                id="chart",
                parameters=[
                    query("since", f"An hour before `until` by default. {WHEN}."),
                    query("until", f"Now by default. {WHEN}."),
                    query("points", "Into how many, at most.", type="integer", minimum=1, maximum=500, default=60),
                    query("name", "Of tasks of this name only."),
                ],
            )
        },
        "/events": {
            "get": operation(
                "Changes as they happen, as server-sent events. Who reads too slowly is disconnected; where changes come "
                "faster than is useful, `skipped` tells the `count` of those left out.",
                text(
                    "text/event-stream", "Each event's `data` is a JSON object with `type`, `id`, `name`, `state`, ..."
                ),
                "503",
                id="events",
                parameters=[
                    choices("type", "Only these.", TYPES),
                    query("name", "Only of tasks of this name; * stands for any characters."),
                    query("id", "Only of this task."),
                ],
            )
        },
        "/metrics": {
            "get": operation("For Prometheus.", text("text/plain", "Metrics in Prometheus' text format."), id="metrics")
        },
        "/healthz": {"get": operation("Whether it lives.", text("text/plain", "ok"), "503", id="healthz", security=[])},
        "/readyz": {
            "get": operation(
                "Whether the history shows what happens now.",
                text("text/plain", "ready"),
                "503",
                id="readyz",
                security=[],
            )
        },
        "/openapi.json": {"get": operation("This.", json({"type": "object"}), id="openapi")},
    }


def document() -> dict[str, Any]:
    """The whole description."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Warren's monitor",
            "version": VERSION,
            "description": "What happened to each task. Errors are JSON objects with one line, `error`.",
        },
        # Relative, so that it holds behind a proxy with a prefix too.
        "servers": [{"url": "."}],
        "security": [{"token": []}, {"login": []}],
        "paths": paths(),
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": f"The one in {KEPT}.",
                },
                "login": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": "warren-...",
                    "description": "The page's login. Requests that change something need its form's `_xsrf` as well.",
                },
            },
        },
    }
