"""Requests that are refused, each with its one line for whoever asked."""

from __future__ import annotations

from tornado.web import HTTPError

__all__ = ["Refused"]


class Refused(HTTPError):
    """A request that gets an error. ``text`` says what is wrong and what to do; ``headers`` go with the answer."""

    def __init__(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(status)
        self.text = text
        self.headers = headers or {}

    def __str__(self) -> str:
        return f"{self.status_code}: {self.text}"
