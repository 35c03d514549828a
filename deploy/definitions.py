"""The broker's definitions: `rabbitmq/definitions.json` and `users.json`, with this deployment's queues and passwords."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from deploy.paths import ROOT
from deploy.secrets import KEDA, Secrets
from deploy.settings import Settings

__all__ = ["VHOST", "broker_settings", "definitions", "password_hash", "users"]

FOLDER = ROOT / "deploy" / "rabbitmq"
VHOST = "warren"
TASKS = "tasks"

# A reply queue's name, as Celery makes them.
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"

# Celery's native delayed delivery has one level for each bit of a delay in seconds, so at most 2^28 - 1 s, 8.5 years
# (MAX_NUMBER_OF_BITS_TO_USE in kombu/transport/native_delayed_delivery.py).
DELAY_LEVELS = 28


def password_hash(password: str) -> str:
    """``password`` as RabbitMQ's rabbit_password_hashing_sha256 keeps it: base64 of salt + sha256(salt + password).

    The salt comes from the password, so that the file changes only when a password does.
    """
    salt = hashlib.sha256(b"salt of " + password.encode()).digest()[:4]
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def users(
    settings: Settings, secrets: Secrets, others: bool = False
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The users of users.json, and their permissions. KEDA's is among them where ``secrets`` have a password for it.

    None is an administrator where ``others`` run the broker: users are the same for all virtual hosts, and an import takes
    over those that have these names.
    """
    accounts, permissions = [], []
    queues = "|".join(settings.every_queue)
    for name, role in json.loads((FOLDER / "users.json").read_text()).items():
        if (name == KEDA and KEDA not in secrets) or (others and "administrator" in role["tags"]):
            continue
        accounts.append(
            {
                "name": name,
                "password_hash": password_hash(secrets[name]),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": role["tags"],
            }
        )
        rights = {
            right: f"^({role[right].replace('UUID', UUID).replace('QUEUES', queues)})$"
            for right in ("configure", "write", "read")
        }
        permissions.append({"user": name, "vhost": VHOST, **rights})
    return accounts, permissions


def definitions(settings: Settings, secrets: Secrets, others: bool = False) -> dict[str, Any]:
    """All that the broker loads at its start, or is to import where ``others`` run it.

    The files hold the pattern with the queue `default`; each queue of every pool takes its place. The queues of
    delayed delivery, which workers make too, are here so that a countdown can be sent before the first worker starts.
    """
    result: dict[str, Any] = json.loads((FOLDER / "definitions.json").read_text())
    result["queues"] = [
        {**queue, "name": name}
        for queue in result["queues"]
        for name in (settings.every_queue if queue["name"] == "default" else [queue["name"]])
    ]
    result["bindings"] = [
        {**binding, "destination": name, "routing_key": name} if binding["destination"] == "default" else binding
        for binding in result["bindings"]
        for name in (settings.every_queue if binding["destination"] == "default" else [None])
    ]
    policies = {policy["name"]: policy for policy in result["policies"]}
    policies["tasks"]["pattern"] = f"^({'|'.join(settings.every_queue)})$"
    policies["tasks"]["definition"]["delivery-limit"] = settings.delivery_limit
    policies["celery.events"]["definition"]["max-age"] = settings.events_max_age
    policies["celery.events"]["definition"]["max-length-bytes"] = settings.events_max_bytes
    policies["celery.revoked"]["definition"]["max-age"] = settings.revokes_max_age
    for kind, items in delayed_delivery(settings).items():
        result[kind] += items
    result["users"], result["permissions"] = users(settings, secrets, others)
    return result


def delayed_delivery(settings: Settings) -> dict[str, list[dict[str, Any]]]:
    """What kombu's declare_native_delayed_delivery_exchanges_and_queues declares, with the bindings of the task queues."""
    here = {"vhost": VHOST, "durable": True, "auto_delete": False}
    exchanges = [{**here, "name": "celery_delayed_delivery", "type": "topic", "internal": False, "arguments": {}}]
    queues, bindings = [], []

    def bind(source: str, destination: str, kind: str, key: str) -> None:
        bindings.append(
            {
                "vhost": VHOST,
                "source": source,
                "destination": destination,
                "destination_type": kind,
                "routing_key": key,
                "arguments": {},
            }
        )

    for level in reversed(range(DELAY_LEVELS)):
        name = f"celery_delayed_{level}"
        lower = f"celery_delayed_{level - 1}" if level else "celery_delayed_delivery"
        # A delay is spelled as the first words of the routing key, a bit a word, the highest first.
        above = "*." * (DELAY_LEVELS - 1 - level)
        exchanges.append({**here, "name": name, "type": "topic", "internal": False, "arguments": {}})
        queues.append(
            {
                **here,
                "name": name,
                "arguments": {
                    "x-queue-type": "quorum",
                    "x-dead-letter-strategy": "at-least-once",
                    "x-overflow": "reject-publish",
                    "x-message-ttl": 2**level * 1000,
                    "x-dead-letter-exchange": lower,
                },
            }
        )
        bind(name, name, "queue", f"{above}1.#")
        bind(name, lower, "exchange", f"{above}0.#")
    for queue in settings.every_queue:
        bind("celery_delayed_delivery", TASKS, "exchange", f"#.{queue}")
        bind(TASKS, queue, "queue", f"#.{queue}")
    return {"exchanges": exchanges, "queues": queues, "bindings": bindings}


def broker_settings(settings: Settings) -> str:
    """`30-settings.conf`: what of rabbitmq.conf depends on this deployment."""
    # A fifth of the memory stays for what Erlang's own accounting does not see, as RabbitMQ's cluster operator does it.
    memory = settings.rabbitmq_memory_mb * 80 // 100
    return "\n".join(
        [
            "# Generated from the settings; see .env.example. Changes here are overwritten.",
            f"total_memory_available_override_value = {memory}MiB",
            f"disk_free_limit.absolute = {settings.disk_free_limit_mb}MB",
            "# Longer than any task and its stop grace: a shorter one would run long tasks twice.",
            f"consumer_timeout = {settings.consumer_timeout * 1000}",
            "",
        ]
    )
