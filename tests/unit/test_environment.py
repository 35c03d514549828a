"""app/environment.py: typed settings from variables, with one line for each mistake."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from msgspec import Meta, field

from app.environment import Mistake, Variables, as_text, read, unknown, variables
from app.settings import AppSettings, from_environment


class Shop(Variables, frozen=True, kw_only=True):
    size: Annotated[int, Meta(ge=1, le=9, title="a size from 1 to 9")] = 3
    colours: Annotated[tuple[str, ...], Meta(min_length=1, title="colours", extra={"list": True})] = ("red", "blue")
    place: str = field(default="here", name="SHOP_PLACE")


def test_a_field_is_a_variable_of_its_name_or_of_the_name_that_it_gives() -> None:
    assert list(variables(Shop)) == ["WARREN_SIZE", "WARREN_COLOURS", "SHOP_PLACE"]


def test_what_is_known_of_a_variable() -> None:
    size = variables(Shop)["WARREN_SIZE"]
    assert (size.field, size.default, size.expected, size.example) == ("size", 3, "a size from 1 to 9", "3")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Shop()),
        ({"WARREN_SIZE": "7"}, Shop(size=7)),
        ({"WARREN_SIZE": "  7\n"}, Shop(size=7)),
        ({"WARREN_SIZE": ""}, Shop()),
        ({"WARREN_SIZE": "   "}, Shop()),
        ({"WARREN_COLOURS": "green"}, Shop(colours=("green",))),
        ({"WARREN_COLOURS": " green , grey,"}, Shop(colours=("green", "grey"))),
        ({"SHOP_PLACE": "there"}, Shop(place="there")),
        ({"WARREN_PLACE": "there"}, Shop()),
        ({"size": "7", "SIZE": "7"}, Shop()),
    ],
)
def test_reading(environment: dict[str, str], expected: Shop) -> None:
    assert read(Shop, environment) == expected


@pytest.mark.parametrize("text", ["0", "10", "-1", "1.5", "abc", "1 2", "0x3", "true"])
def test_a_mistake_names_variable_value_origin_what_it_takes_and_an_example(text: str) -> None:
    with pytest.raises(Mistake) as caught:
        read(Shop, {"WARREN_SIZE": text})
    assert caught.value.lines == [
        f"WARREN_SIZE={text} (in the environment) is not a size from 1 to 9; write for example WARREN_SIZE=3"
    ]


def test_the_origin_of_a_mistake_is_the_file_that_it_is_in() -> None:
    with pytest.raises(Mistake) as caught:
        read(Shop, {"WARREN_SIZE": "0", "WARREN_COLOURS": ","}, {"WARREN_SIZE": ".env"})
    assert [line.partition(" is not ")[0] for line in caught.value.lines] == [
        "WARREN_SIZE=0 (in .env)",
        "WARREN_COLOURS=, (in the environment)",
    ]


def test_the_example_of_a_list_is_written_as_a_list() -> None:
    with pytest.raises(Mistake) as caught:
        read(Shop, {"WARREN_COLOURS": ","})
    assert str(caught.value).endswith("write for example WARREN_COLOURS=red,blue")


@pytest.mark.parametrize(("value", "text"), [(3, "3"), (("a", "b"), "a,b"), (("a",), "a"), ("rpc://", "rpc://")])
def test_a_value_as_text(value: Any, text: str) -> None:
    assert as_text(value) == text


@pytest.mark.parametrize(
    ("names", "lines"),
    [
        (["WARREN_SIZE", "SHOP_PLACE"], []),
        (["WARREN_SZIE"], ["WARREN_SZIE (in x) is no setting of Warren; did you mean WARREN_SIZE?"]),
        (["TZ"], ["TZ (in x) is no setting of Warren; the settings are listed in .env.example"]),
        (
            ["b_unknown", "a_unknown"],
            [
                "a_unknown (in x) is no setting of Warren; the settings are listed in .env.example",
                "b_unknown (in x) is no setting of Warren; the settings are listed in .env.example",
            ],
        ),
    ],
)
def test_unknown_names(names: list[str], lines: list[str]) -> None:
    assert unknown(names, variables(Shop), "x") == lines


def test_every_setting_of_the_app_says_what_it_takes() -> None:
    assert [one.name for one in variables(AppSettings).values() if not one.expected] == []


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("CELERY_BROKER_URL", ["amqp://h/v", "amqps://h:5671/v"], ["redis://h", "h:5672"]),
        ("CELERY_APP", ["app", "shop.celery", "shop.celery:app", "shop:a.b"], ["shop/celery", "1shop", "shop:", "a b"]),
        ("WARREN_QUEUES", ["a", "a,b-c_1", "a" * 63], ["A", "1a", "a.b", "a b", ",", "a" * 64, "a,B", "-a"]),
        ("WARREN_WORKER_CONCURRENCY", ["auto", "1", "9999"], ["0", "10000", "-1", "two", "1.5", "AUTO"]),
        ("WARREN_LOG_LEVEL", ["debug", "info", "warning", "error"], ["INFO", "loud"]),
        ("MONITOR_FORMAT", ["text", "json"], ["xml", "JSON"]),
        ("WARREN_TASK_TIME_LIMIT", ["2", "604800"], ["0", "1", "604801", "5m", "-5", "1.5"]),
    ],
)
def test_what_the_settings_of_the_app_take(name: str, good: list[str], bad: list[str]) -> None:
    for text in good:
        read(AppSettings, {name: text})
    for text in bad:
        with pytest.raises(Mistake, match=f"^{name}="):
            read(AppSettings, {name: text})


def test_a_process_reads_its_own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARREN_QUEUES", "mail,default")
    assert from_environment().queues == ("mail", "default")
    assert from_environment({}).queues == ("default",)


@pytest.mark.parametrize(
    "address",
    [
        "amqp://127.0.0.1:5672/warren",
        "amqps://worker:a%2Fb@[fd00::1]:5671/shop?heartbeat=10",
        "amqp://worker@one//;amqp://worker@two//",
        "amqp://broker?heartbeat=10",
        "amqp://",
    ],
)
def test_an_address_of_a_broker(address: str) -> None:
    assert from_environment({"CELERY_BROKER_URL": address}).broker_url == address


@pytest.mark.parametrize("password", ["secret\n", "secret/b", "secret#b", "secret?b", "sec@ret", "sec ret"])
@pytest.mark.parametrize("name", ["CELERY_BROKER_URL", "MONITOR_OPS_URL", "MONITOR_PRODUCER_URL"])
def test_of_an_address_that_is_none_no_password_is_shown(name: str, password: str) -> None:
    with pytest.raises(Mistake) as caught:
        from_environment({name: f"amqp://worker:{password}@rabbitmq:5672/warren"})
    (line,) = caught.value.lines
    assert line.startswith(f"{name}=amqp://***@rabbitmq:5672/warren (in the environment) is not an amqp:// address (")
    assert "sec" not in line
