"""Which handler gets which events."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from app.monitor.handlers import TYPES, Handler, Registry, on
from app.monitor.handlers.registry import CACHE_LIMIT, Subscription, subscriptions


def made(name: str, *wanted: Subscription) -> Handler:
    return Handler(name, print, wanted)


def test_each_handler_gets_its_types() -> None:
    registry = Registry(
        [
            made("a", Subscription(("task-failed", "task-orphaned"))),
            made("b", Subscription(("task-failed",))),
            made("c", Subscription(("worker-offline",))),
        ]
    )
    assert registry.names == ("a", "b", "c")
    assert registry.wanted("task-failed", "shop.pay") == ("a", "b")
    assert registry.wanted("task-orphaned", "unknown") == ("a",)
    assert registry.wanted("worker-offline", "") == ("c",)
    assert registry.wanted("task-started", "shop.pay") == ()
    assert registry.wanted("worker-heartbeat", "") == ()
    assert Registry().wanted("task-failed", "shop.pay") == ()


@pytest.mark.parametrize(
    ("pattern", "names", "others"),
    [
        ("shop.*", ["shop.pay", "shop.a.b", "shop."], ["shop", "shopping.pay", "my.shop.pay"]),
        ("shop.pay", ["shop.pay"], ["shop.payment", "Shop.pay", "shop-pay"]),
        ("*.pay", ["shop.pay", "a.b.pay"], ["pay", "shop.pay.x"]),
        ("shop.p?y", ["shop.pay", "shop.p.y"], ["shop.py"]),
        ("*", ["shop.pay", "unknown", "a\nb"], []),
    ],
)
def test_names_are_matched_as_file_names_are(pattern: str, names: list[str], others: list[str]) -> None:
    registry = Registry([made("a", Subscription(("task-failed",), pattern))])
    # Twice: the second answer is a remembered one.
    for _ in range(2):
        assert [name for name in names + others if registry.wanted("task-failed", name)] == names


def test_several_decorators_add_up() -> None:
    @on("task-failed", name="shop.*", retries=3)
    @on("task-orphaned")
    @on("task-failed", name="shop.pay", retries=9)
    def tell(event: dict[str, Any]) -> None: ...

    handler = Handler("tell", tell, subscriptions(tell))
    # One delivery an event, also where two decorators match.
    assert Registry([handler]).wanted("task-failed", "shop.pay") == ("tell",)
    assert Registry([handler]).wanted("task-orphaned", "mail.send") == ("tell",)
    assert Registry([handler]).wanted("task-failed", "mail.send") == ()
    assert handler.retries("task-failed", "shop.pay") == 9
    assert handler.retries("task-failed", "shop.other") == 3
    assert handler.retries("task-orphaned", "shop.pay") is None


def test_a_wrapper_keeps_what_was_said_of_the_function() -> None:
    def loud(function: Callable[[Any], None]) -> Callable[[Any], None]:
        @functools.wraps(function)
        def wrapper(event: Any) -> None:
            function(event)

        return wrapper

    @on("task-orphaned")
    @loud
    @on("task-failed")
    def tell(event: Any) -> None: ...

    assert [one.types for one in subscriptions(tell)] == [("task-failed",), ("task-orphaned",)]
    # What is added to the wrapper is not added to what it wraps.
    assert [one.types for one in subscriptions(tell.__wrapped__)] == [("task-failed",)]  # type: ignore[attr-defined]


def test_no_flood_of_names_fills_the_memory() -> None:
    registry = Registry([made("a", Subscription(("task-failed",), "x*"))])
    for number in range(CACHE_LIMIT * 2 + 5):
        assert registry.wanted("task-failed", f"{number}") == ()
    assert len(registry._cache) <= CACHE_LIMIT
    assert registry.wanted("task-failed", "x1") == ("a",)


def plain(event: Any) -> None: ...


async def awaited(event: Any) -> None: ...


def generator(event: Any) -> Any:
    yield


def without_an_event() -> None: ...


def with_more(event: Any, more: Any) -> None: ...


def with_a_default(event: Any, more: Any = None, **rest: Any) -> None: ...


class Callable_:  # noqa: N801 - there is another Callable
    def __call__(self, event: Any) -> None: ...


@pytest.mark.parametrize(
    ("use", "said"),
    [
        (on, "takes types"),
        (lambda: on(plain), "takes types"),  # type: ignore[arg-type]
        (lambda: on("task-fialed"), "did you mean task-failed"),
        (lambda: on("FAILURE"), "there is no event 'FAILURE'"),
        (lambda: on("task-failed", name=""), "name= takes"),
        (lambda: on("task-failed", name=["a"]), "name= takes"),  # type: ignore[arg-type]
        (lambda: on("task-failed", "worker-offline", name="a"), "worker-offline is about no task"),
        (lambda: on("task-failed", retries=-1), "retries= takes"),
        (lambda: on("task-failed", retries=True), "retries= takes"),
        (lambda: on("task-failed", retries=1.5), "retries= takes"),  # type: ignore[arg-type]
        (lambda: on("task-failed")(awaited), "awaited must be a plain function"),
        (lambda: on("task-failed")(generator), "generator must be a plain function"),
        (lambda: on("task-failed")(without_an_event), "must take one argument"),  # type: ignore[type-var]
        (lambda: on("task-failed")(with_more), "must take one argument"),  # type: ignore[type-var]
        (lambda: on("task-failed")(Callable_()), "belongs on a plain function"),
        (lambda: on("task-failed")(Callable_), "belongs on a plain function"),  # type: ignore[type-var]
        (lambda: on("task-failed")(print), "belongs on a plain function"),
    ],
)
def test_what_is_used_wrongly_is_said(use: Callable[[], object], said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=said) as raised:
        use()
    assert "\n" not in str(raised.value)


def test_a_function_may_take_more_if_it_needs_less() -> None:
    assert on(*TYPES)(with_a_default) is with_a_default
