"""What users set of Flower, and that nothing set by halves opens it to everybody."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flower.utils.authentication import authenticate, validate_auth_option

from app.flower.__main__ import clear
from app.settings import from_environment
from deploy.commands import stack
from deploy.errors import ExitCode, WarrenError
from deploy.secrets import NAMES, Secrets
from deploy.services import environments
from deploy.settings import Settings, load
from tests.unit.conftest import NOWHERE, Menu

OAUTH = {
    "FLOWER_AUTH_PROVIDER": "flower.views.auth.GoogleAuth2LoginHandler",
    "FLOWER_AUTH": ".*@example.org",
    "FLOWER_OAUTH2_KEY": "the-key",
    "FLOWER_OAUTH2_SECRET": "hidden-secret",
    "FLOWER_OAUTH2_REDIRECT_URI": "https://example.org/login",
}


def env(folder: Path, values: dict[str, str]) -> Settings:
    file = folder / ".env"
    file.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    return load(file, {})


def variables(settings: Settings) -> dict[str, str]:
    secrets = Secrets({name: f"secret-{name}" for name in NAMES})
    return environments(settings, secrets, "rabbitmq", 5672, 15672)["flower"]


def test_by_default_there_is_a_password() -> None:
    values = variables(Settings())
    assert values["FLOWER_BASIC_AUTH"] == "operator:secret-flower-login"
    assert values["FLOWER_COOKIE_SECRET"] == "secret-flower-cookie"
    assert (values["FLOWER_READ_ONLY"], values["FLOWER_MAX_TASKS"]) == ("false", "20000")
    assert not any(name.startswith(("FLOWER_AUTH", "FLOWER_OAUTH2")) for name in values)


def test_a_login_elsewhere_is_instead_of_the_password(tmp_path: Path) -> None:
    values = variables(env(tmp_path, {**OAUTH, "FLOWER_READ_ONLY": "true"}))
    assert "FLOWER_BASIC_AUTH" not in values
    assert {name: values[name] for name in OAUTH} == OAUTH
    assert values["FLOWER_READ_ONLY"] == "true"


@pytest.mark.parametrize("missing", OAUTH)
def test_a_login_elsewhere_needs_all_of_it(tmp_path: Path, missing: str) -> None:
    with pytest.raises(WarrenError, match=f"a login by OAuth needs {missing} too"):
        env(tmp_path, {name: value for name, value in OAUTH.items() if name != missing})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"FLOWER_READ_ONLY": "perhaps"}, "is not true or false; write for example FLOWER_READ_ONLY=false"),
        ({"FLOWER_MAX_TASKS": "7"}, "is not a number of tasks from 100 to 1000000"),
        ({"FLOWER_READYSECONDS": "7"}, "did you mean FLOWER_READY_SECONDS"),
        ({"FLOWER_METRICS_TOKEN": "mine"}, "FLOWER_METRICS_TOKEN (in .env) is no setting of Warren"),
        *(
            (
                {**OAUTH, "FLOWER_AUTH": wrong},
                f"FLOWER_AUTH={wrong} (in .env) is not an address, several with | between",
            )
            for wrong in ("*@example.org", "*", ".*", ".*@*", ".*.*@example.org", "a@example.org|.*@example.org")
        ),
        ({**OAUTH, "FLOWER_AUTH": "*@example.org"}, "; write for example FLOWER_AUTH=.*@example.org"),
        ({"FLOWER_BASIC_AUTH": "me:mine"}, "FLOWER_BASIC_AUTH (in .env) is no setting of Warren"),
    ],
)
def test_mistakes(tmp_path: Path, values: dict[str, str], words: str) -> None:
    with pytest.raises(WarrenError) as caught:
        env(tmp_path, values)
    assert words in str(caught.value)
    assert (caught.value.code, str(caught.value).count("\n")) == (ExitCode.SETTINGS, 0)


@pytest.mark.parametrize(
    ("who", "gets_in"),
    [
        ("ann@example.org", {"ann@example.org"}),
        ("ann@example.org|cy@example.com", {"ann@example.org", "cy@example.com"}),
        (".*@example.org", {"ann@example.org", "bob@example.org"}),
        ("a.*@example.org", {"ann@example.org"}),
    ],
)
def test_who_may_log_in(tmp_path: Path, who: str, gets_in: set[str]) -> None:
    allowed = variables(env(tmp_path, {**OAUTH, "FLOWER_AUTH": who}))["FLOWER_AUTH"]
    assert validate_auth_option(allowed)
    people = ("ann@example.org", "bob@example.org", "ann@example.com", "cy@example.com", "ann@example.org.example.com")
    assert {one for one in people if authenticate(allowed, one)} == gets_in


def test_how_to_log_in_is_said(tmp_path: Path) -> None:
    def said(settings: Settings) -> str:
        session: Any = SimpleNamespace(settings=settings, endpoints=NOWHERE)
        return stack.flower_login(session)

    assert said(Settings()) == "user operator, password in .warren/secrets/flower-login"
    assert said(env(tmp_path, OAUTH)) == "login by GoogleAuth2"


def test_the_launcher_takes_what_is_empty_for_not_set() -> None:
    password = {"FLOWER_BASIC_AUTH": "operator:secret", "FLOWER_URL_PREFIX": "", "FLOWER_AUTH_PROVIDER": ""}
    clear(password)
    assert password == {"FLOWER_BASIC_AUTH": "operator:secret"}
    # On Kubernetes a pod has it all.
    both = {"FLOWER_BASIC_AUTH": "operator:secret", **OAUTH}
    clear(both)
    assert both == OAUTH


@pytest.mark.parametrize("missing", OAUTH)
def test_a_pod_is_not_opened_by_halves(missing: str) -> None:
    (line,) = from_environment({**OAUTH, missing: ""}).half_a_login
    assert line.startswith(f"a login by OAuth needs {missing} too")


def test_config_hides_the_secret(menu: Menu, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARREN_PLATFORM", "compose")
    for name, value in OAUTH.items():
        monkeypatch.setenv(name, value)
    ended = menu("config")
    assert ended.code == 0
    assert ".*@example.org" in ended.out
    assert "hidden-secret" not in ended.out + ended.err
