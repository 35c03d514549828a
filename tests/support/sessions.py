"""The operator's commands on a test's broker and monitor."""

from __future__ import annotations

from deploy.platforms.base import Endpoints
from deploy.run import Runner
from deploy.session import Session
from tests.support.brokers import HOST, Broker
from tests.support.ports import free_port
from tests.support.services import Monitor

__all__ = ["session"]


def session(broker: Broker, monitor: Monitor | None = None, **settings: object) -> Session:
    """A command's view of the broker; without a monitor, one whose monitor is down."""
    from msgspec.structs import replace

    made = Session(Runner())
    made.__dict__["settings"] = replace(broker.settings, **settings)
    made.__dict__["secrets"] = broker.secrets
    made.__dict__["endpoints"] = Endpoints(
        host=HOST,
        amqp=broker.amqp,
        management=broker.management,
        prometheus=1,
        flower=1,
        monitor=monitor.port if monitor else free_port(),
    )
    return made
