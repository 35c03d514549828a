"""What a command works with: settings, secrets and the platform, each read when it is first needed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from deploy.output import note
from deploy.paths import ROOT
from deploy.run import Runner

if TYPE_CHECKING:
    from celery import Celery

    from deploy.platforms import Endpoints, Platform
    from deploy.secrets import Secrets
    from deploy.settings import Settings

__all__ = ["Session"]


@dataclass
class Session:
    """One command's view of the deployment."""

    runner: Runner
    asked: str | None = None
    """The platform that --platform names."""
    default: str | None = None
    """The platform that invoke.yaml names, for where neither --platform nor WARREN_PLATFORM does."""
    edge: bool | None = None
    """What --edge or --no-edge says. To be set before the settings are read."""
    confirmed: bool = False
    """Whether --yes was said."""
    placed: bool = False
    """Whether it was said where the stack is."""

    @cached_property
    def settings(self) -> Settings:
        from deploy.platforms import remembered_edge
        from deploy.settings import load

        said = self.edge if self.edge is not None else remembered_edge()
        option = {} if said is None else {"WARREN_EDGE": "on" if said else "off"}
        return load(ROOT / ".env", {**os.environ, **option})

    @cached_property
    def secrets(self) -> Secrets:
        return self.platform.secrets

    @cached_property
    def platform(self) -> Platform:
        from deploy.platforms import choose

        asked = self.asked or (self.default if self.settings.platform == "auto" else None)
        return choose(asked, self.settings, self.runner, self.confirmed)

    @cached_property
    def endpoints(self) -> Endpoints:
        return self.platform.endpoints()

    def acts(self, line: str) -> bool:
        """As :meth:`Runner.acts`, for what is done to the stack; once, and where that is elsewhere, it is said first where.

        Not on standard output: what a command prints there is for scripts too.
        """
        if not self.placed:
            self.placed = True
            if place := self.endpoints.place:
                note(f"{place}:")
        return self.runner.acts(line)

    def broker_url(self, role: str) -> str:
        from deploy.services import broker_url

        return broker_url(role, self.secrets, self.endpoints.host, self.endpoints.amqp)

    def client(self, role: str, **overrides: Any) -> Celery:
        """A Celery app without tasks, connected as ``role``."""
        from msgspec.structs import replace

        from app.factory import client

        if role == "ops":
            # Remote control is asked and answered; a confirm would be waited for without end where an alarm is on.
            overrides = {"broker_transport_options": {}, **overrides}
        return client(replace(self.settings, broker_url=self.broker_url(role)), **overrides)
