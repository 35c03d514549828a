"""deploy/settings.py: the environment over .env over defaults, with one line for each mistake."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from app.environment import Mistake, as_text, read, variables
from app.settings import from_environment
from deploy.errors import ExitCode, WarrenError
from deploy.paths import ROOT
from deploy.settings import INTERNAL, Settings, known, load

EXAMPLE = (ROOT / ".env.example").read_text()


def mistakes(file: Path, environment: dict[str, str]) -> list[str]:
    with pytest.raises(WarrenError) as caught:
        load(file, environment)
    assert caught.value.code is ExitCode.SETTINGS
    return str(caught.value).splitlines()


@pytest.fixture
def env(tmp_path: Path) -> Path:
    return tmp_path / ".env"


def test_without_a_file_and_variables_there_are_the_defaults(env: Path) -> None:
    assert load(env, {}) == Settings()


def test_typed_values(env: Path) -> None:
    env.write_text("WARREN_WORKERS=4\nWARREN_QUEUES=mail,default\n")
    found = load(env, {"WARREN_AMQP_PORT": "5673"})
    assert (found.workers, found.queues, found.amqp_port) == (4, ("mail", "default"), 5673)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("WARREN_PROJECT=shop", "shop"),
        ("WARREN_PROJECT='shop'", "shop"),
        ('WARREN_PROJECT="shop"', "shop"),
        ("WARREN_PROJECT=shop # the shop's", "shop"),
        ("export WARREN_PROJECT=shop", "shop"),
        ("  WARREN_PROJECT = shop  ", "shop"),
        ("#WARREN_PROJECT=shop", "warren"),
        ("WARREN_PROJECT=", "warren"),
        ("WARREN_PROJECT=''", "warren"),
        ("WARREN_PROJECT=shop\r\n", "shop"),
        ("NAME=shop\n", None),
    ],
)
def test_how_the_file_is_read(env: Path, text: str, value: str | None) -> None:
    env.write_bytes(text.encode())
    if value is None:
        assert len(mistakes(env, {})) == 1
    else:
        assert load(env, {}).project == value


def test_the_environment_wins_over_the_file(env: Path) -> None:
    env.write_text("WARREN_WORKERS=4\nWARREN_PROJECT=shop\n")
    found = load(env, {"WARREN_WORKERS": "7"})
    assert (found.workers, found.project) == (7, "shop")


def test_a_right_variable_of_the_environment_hides_a_wrong_one_of_the_file(env: Path) -> None:
    env.write_text("WARREN_WORKERS=many\n")
    assert load(env, {"WARREN_WORKERS": "7"}).workers == 7


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_variable_means_the_default(env: Path, text: str) -> None:
    assert load(env, {"WARREN_WORKERS": text}).workers == 1


@pytest.mark.parametrize(
    ("written", "environment", "origin"),
    [
        ("WARREN_WORKERS=many", {}, ".env"),
        ("", {"WARREN_WORKERS": "many"}, "the environment"),
        ("WARREN_WORKERS=3", {"WARREN_WORKERS": "many"}, "the environment"),
    ],
)
def test_a_mistake_says_where_it_is(env: Path, written: str, environment: dict[str, str], origin: str) -> None:
    env.write_text(written)
    assert mistakes(env, environment) == [
        f"WARREN_WORKERS=many (in {origin}) is not a number of workers from 0 to 1000; "
        "write for example WARREN_WORKERS=1"
    ]


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("WARREN_PLATFORM", ["auto", "compose", "local"], ["docker", "Compose"]),
        ("WARREN_PROJECT", ["a", "a-1", "a" * 31], ["A", "1a", "a_b", "a" * 32, "-a"]),
        ("WARREN_WORKERS", ["0", "1000"], ["-1", "1001", "1.5", "two"]),
        ("WARREN_BIND", ["0.0.0.0", "10.1.2.3", "::1", "fe80::1"], ["localhost", "10.1.2.3/24"]),
        ("WARREN_AMQP_PORT", ["1", "65535"], ["0", "65536", "amqp"]),
        ("WARREN_APP_IMAGE", ["shop", "r.example:5000/team/shop:1.4", "shop@sha256:0a"], ["a b", "$(id)", "-x"]),
        ("WARREN_DELIVERY_LIMIT", ["1", "1000000"], ["0", "1000001", "-1"]),
        ("WARREN_EVENTS_MAX_AGE", ["7D", "12h", "30m", "1Y"], ["7", "7d", "0D", "D", "1.5D"]),
        ("WARREN_EVENTS_MAX_BYTES", ["100000000"], ["99999999", "2GB"]),
        ("WARREN_RABBITMQ_MEMORY_MB", ["256"], ["255", "1g"]),
        ("WARREN_DISK_FREE_LIMIT_MB", ["1"], ["0", "50MB"]),
        ("WARREN_UP_TIMEOUT", ["1", "3600"], ["0", "3601", "3m"]),
        ("WARREN_MONITOR_PORT", ["1", "65535"], ["0", "65536", "http"]),
        ("MONITOR_FORMAT", ["text", "json"], ["JSON", "xml"]),
        ("MONITOR_KEEP_DAYS", ["1", "3650"], ["0", "3651", "7D"]),
        ("MONITOR_KEEP_TASKS", ["1", "100000000"], ["0", "1M", "100000001"]),
        ("MONITOR_HANDLERS", ["alerts", "shop.alerts,audit"], ["shop/alerts.py", "shop.", "1shop", "shop:on"]),
        ("MONITOR_WEBHOOK_URL", ["http://127.0.0.1:8080/x", "https://a.example"], ["a.example", "ftp://a", "http://"]),
        ("MONITOR_WEBHOOK_EVENTS", ["task-failed", "worker-online,task-sent"], ["failed", "task-fail", ","]),
        ("MONITOR_COMMAND_EVENTS", ["task-cancelled", "worker-offline"], ["task-failed;task-sent", "all"]),
        ("MONITOR_UNCLAIMED_AFTER", ["1", "604800"], ["0", "604801", "5m"]),
        ("MONITOR_STALLED_FACTOR", ["2", "10000"], ["1", "10001", "2.5"]),
        ("MONITOR_SILENT_AFTER", ["3", "3600"], ["2", "3601", "-15"]),
    ],
)
def test_what_the_settings_take(env: Path, name: str, good: list[str], bad: list[str]) -> None:
    for text in good:
        load(env, {name: text})
    for text in bad:
        lines = mistakes(env, {name: text})
        assert len(lines) == 1, lines
        assert lines[0].startswith(f"{name}={text} (in the environment) is not ")


def test_every_example_in_a_line_is_right_itself() -> None:
    for variable in known().values():
        assert variable.expected, variable.name
        assert variable.example, variable.name
        # A pool is nothing without queues.
        queues = {"WARREN_POOL_HEAVY_QUEUES": "video"} if variable.name == "WARREN_POOLS" else {}
        found = getattr(read(Settings, {variable.name: variable.example, **queues}), variable.field)
        assert found == variable.default or (not variable.default and as_text(found) == variable.example)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("WARREN_WORKER", "did you mean WARREN_WORKERS?"),
        ("WARREN_QUEUE", "did you mean WARREN_QUEUES?"),
        ("WARREN_TASK_TIMELIMIT", "did you mean WARREN_TASK_TIME_LIMIT?"),
        ("WARREN_XYZZY_FROTZ_GNUSTO", "the settings are listed in .env.example"),
    ],
)
def test_unknown_names_are_mistakes_with_the_nearest_that_is_known(env: Path, name: str, hint: str) -> None:
    assert mistakes(env, {name: "1"}) == [f"{name} (in the environment) is no setting of Warren; {hint}"]
    env.write_text(f"{name}=1\n")
    assert mistakes(env, {}) == [f"{name} (in .env) is no setting of Warren; {hint}"]


def test_foreign_names_are_a_mistake_in_the_file_and_nobodys_business_in_the_environment(env: Path) -> None:
    assert load(env, {"PATH": "/bin", "MONITOR_FORMATS": "x"}) == Settings()
    env.write_text("PATH=/bin\n")
    assert len(mistakes(env, {})) == 1


@pytest.mark.parametrize("name", sorted(INTERNAL))
def test_what_the_platform_sets_is_not_the_users_to_set(env: Path, name: str) -> None:
    default = variables(Settings)[name].default
    # A shell may have them, as a container does; they just don't count.
    assert getattr(load(env, {name: "amqp://else"}), variables(Settings)[name].field) == default
    env.write_text(f"{name}=amqp://else\n")
    (line,) = mistakes(env, {})
    assert line.startswith(f"{name} (in .env) is no setting of Warren; ")


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("WARREN_WORKERS\n", [1]),
        ("\n\n# a comment\nWARREN_WORKERS 4\n", [4]),
        ("WARREN_WORKERS=4\nnonsense\n\n= 3\n", [2, 4]),
        ("WARREN_PROJECT='shop\nWARREN_WORKERS=1\n", [1]),
        ("# one\n\nWARREN_PROJECT=shop\n\n\nWARREN_WORKERS: 3", [6]),
        ("WARREN_PROJECT='shop'\r\n\r\nnonsense\r\n", [3]),
    ],
)
def test_lines_that_cannot_be_read_are_told_by_their_number(env: Path, text: str, numbers: list[int]) -> None:
    env.write_bytes(text.encode())
    found = [
        re.match(r"line (\d+) of \.env is not NAME=value: .+; correct it or put a # before it$", line)
        for line in mistakes(env, {})
    ]
    assert [int(one.group(1)) for one in found if one] == numbers
    assert None not in found


def test_a_line_after_a_value_of_several_lines_has_its_own_number(env: Path) -> None:
    env.write_text('WARREN_APP_IMAGE="shop"\nWARREN_APP_CONTEXT="a\nb\nc"\nnonsense\n')
    assert next(line for line in mistakes(env, {}) if "is not NAME=value" in line).startswith("line 5 of .env ")


@pytest.mark.parametrize("how", ["folder", "bytes"])
def test_a_file_that_cannot_be_read_is_one_line(env: Path, how: str) -> None:
    if how == "folder":
        env.mkdir()
    else:
        env.write_bytes(b"WARREN_PROJECT=caf\xe9\n")
    (line,) = mistakes(env, {})
    assert line.startswith(".env can't be read: ")


def test_many_mistakes_are_many_lines(env: Path) -> None:
    env.write_text("WARREN_WORKERS=many\nnonsense\nWARREN_QEUES=a\n")
    lines = mistakes(env, {"WARREN_AMQP_PORT": "0", "WARREN_FOO_BAR": "1"})
    assert len(lines) == 5
    for part in (
        "WARREN_WORKERS=many (in .env)",
        "line 2 of .env",
        "did you mean WARREN_QUEUES?",
        "WARREN_AMQP_PORT=0 (in the environment)",
        "WARREN_FOO_BAR (in the environment)",
    ):
        assert sum(part in line for line in lines) == 1, part


@pytest.mark.parametrize(
    ("environment", "lines"),
    [
        (
            {"WARREN_AMQP_PORT": "5555"},
            ["WARREN_AMQP_PORT and WARREN_FLOWER_PORT are both 5555; give each a port of its own"],
        ),
        (
            {"WARREN_MANAGEMENT_PORT": "5672", "WARREN_PROMETHEUS_PORT": "5672"},
            [
                "WARREN_AMQP_PORT and WARREN_MANAGEMENT_PORT are both 5672; give each a port of its own",
                "WARREN_MANAGEMENT_PORT and WARREN_PROMETHEUS_PORT are both 5672; give each a port of its own",
            ],
        ),
        (
            {"CELERY_APP": "shop.celery:app"},
            [
                "CELERY_APP=shop.celery:app needs WARREN_APP_CONTEXT, the folder of that project; "
                "write for example WARREN_APP_CONTEXT=../shop"
            ],
        ),
        (
            {"CELERY_APP": "shop.celery:app", "WARREN_APP_CONTEXT": "no/such/folder"},
            ["WARREN_APP_CONTEXT=no/such/folder is no folder; name the folder of your Celery project"],
        ),
        ({"CELERY_APP": "shop.celery:app", "WARREN_APP_CONTEXT": "deploy"}, []),
        ({"WARREN_QUEUES": "default,dead_letters"}, ["dead_letters"]),
        ({"WARREN_QUEUES": "default,celery_delayed_3"}, ["celery_delayed_3"]),
        ({"WARREN_QUEUES": "default,mail,default"}, ["WARREN_QUEUES: default is there twice; name each queue once"]),
        ({"WARREN_BIND": "999.1.1.1"}, ["WARREN_BIND=999.1.1.1 is not an IP address"]),
        ({"WARREN_BIND": "1.2.3"}, ["WARREN_BIND=1.2.3 is not an IP address"]),
        (
            {"WARREN_MONITOR_PORT": "5555"},
            ["WARREN_FLOWER_PORT and WARREN_MONITOR_PORT are both 5555; give each a port of its own"],
        ),
        ({"MONITOR_COMMAND": "logger -t 'two words'"}, []),
    ],
)
def test_combinations(env: Path, environment: dict[str, str], lines: list[str]) -> None:
    if not lines:
        load(env, environment)
        return
    found = mistakes(env, environment)
    assert len(found) == len(lines)
    for line, part in zip(found, lines, strict=True):
        assert part in line
        assert "WARREN_" in line


@pytest.mark.parametrize("name", ["MONITOR_COMMAND", "WARREN_KUBE_LOAD"])
def test_a_command_whose_quotes_do_not_match_is_a_mistake(env: Path, name: str) -> None:
    assert mistakes(env, {name: "logger 'x"}) == [
        f"{name}=logger 'x can't be read as a command (No closing quotation); quote it as in a shell"
    ]


def test_the_published_port_is_not_that_inside_the_container(env: Path) -> None:
    assert load(env, {"WARREN_MONITOR_PORT": "7000", "MONITOR_PORT": "8000"}).monitor_port == 7000
    assert from_environment({"WARREN_MONITOR_PORT": "7000", "MONITOR_PORT": "8000"}).monitor_port == 8000
    env.write_text("MONITOR_PORT=7000\n")
    assert mistakes(env, {}) == ["MONITOR_PORT (in .env) is no setting of Warren; did you mean WARREN_MONITOR_PORT?"]


def test_the_context_is_a_folder_beside_the_checkout_or_anywhere(env: Path, tmp_path: Path) -> None:
    found = load(env, {"CELERY_APP": "shop", "WARREN_APP_CONTEXT": str(tmp_path)})
    assert found.foreign_app and found.app_context == str(tmp_path)
    assert not load(env, {"CELERY_APP": "app"}).foreign_app


# --- .env.example


def test_the_example_has_every_setting_commented_out_with_its_true_default() -> None:
    lines = dict(re.findall(r"^#([A-Z][A-Z0-9_]+)=(.*)$", EXAMPLE, re.MULTILINE))
    assert lines == {name: as_text(variable.default) for name, variable in known().items()}


def test_the_example_sets_each_variable_once() -> None:
    names = re.findall(r"^#?([A-Z][A-Z_]+)=", EXAMPLE, re.MULTILINE)
    assert sorted(names) == sorted(set(names))


def test_the_example_as_it_is_sets_nothing() -> None:
    assert [line for line in EXAMPLE.splitlines() if line and not line.startswith("#")] == []


def test_the_example_with_all_its_settings_active_is_right(env: Path) -> None:
    env.write_text(re.sub(r"^#([A-Z][A-Z_]+=)", r"\1", EXAMPLE, flags=re.MULTILINE))
    assert load(env, {}) == Settings()


def test_every_group_of_settings_in_the_example_is_explained() -> None:
    for block in EXAMPLE.split("\n\n"):
        if re.search(r"^#[A-Z][A-Z_]+=", block, re.MULTILINE) and "WARREN_RABBITMQ_IMAGE" not in block:
            assert block.startswith("# "), block


def test_no_mistake_is_an_exception_that_the_menu_does_not_know() -> None:
    assert not issubclass(Mistake, WarrenError)
    with pytest.raises(WarrenError):
        load(Path("nowhere"), {"WARREN_WORKERS": "x"})
