"""deploy/secrets.py: made once, for this user's eyes only, never overwritten, never shown."""

from __future__ import annotations

import base64
import hashlib
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from deploy import secrets as module
from deploy.definitions import password_hash
from deploy.errors import ExitCode, WarrenError
from deploy.paths import ROOT, write_private
from deploy.platforms.compose import Compose
from deploy.secrets import NAMES, ROLES, Secrets, load
from deploy.settings import Settings
from tests.unit.conftest import FakeRunner


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_each_name_has_a_file_of_its_own_for_this_user_only(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "secrets"
    made = load(folder)
    assert set(made) == set(NAMES) == {file.name for file in folder.iterdir()}
    assert len(set(made.values())) == len(NAMES)
    assert mode(folder) == 0o700
    assert {mode(file) for file in folder.iterdir()} == {0o600}
    assert {file.read_text().strip() for file in folder.iterdir()} == set(made.values())


def test_a_generous_umask_changes_nothing(tmp_path: Path) -> None:
    code = "import os, sys; os.umask(0); from pathlib import Path; from deploy.secrets import load; load(Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "s")], check=True, cwd=ROOT)
    assert mode(tmp_path / "s") == 0o700
    assert {mode(file) for file in (tmp_path / "s").iterdir()} == {0o600}


def test_they_are_long_and_need_no_quotes_anywhere() -> None:
    for _ in range(200):
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{31}", module.generate())


def test_a_value_that_would_look_like_an_option_is_thrown_away(monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter(["-x", "-y", "z"])
    monkeypatch.setattr(module.random, "token_urlsafe", lambda _: next(values))
    assert module.generate() == "z"


def test_what_is_there_stays(tmp_path: Path) -> None:
    first = load(tmp_path)
    assert load(tmp_path) == first


def test_one_that_a_user_wrote_is_taken_without_its_newline(tmp_path: Path) -> None:
    (tmp_path / "ops").write_text("  chosen\n")
    assert load(tmp_path)["ops"] == "chosen"
    assert (tmp_path / "ops").read_text() == "  chosen\n"


def test_a_missing_one_is_made_beside_the_others(tmp_path: Path) -> None:
    first = load(tmp_path)
    (tmp_path / "flower").unlink()
    second = load(tmp_path)
    assert second.pop("flower") != first.pop("flower")
    assert second == first


@pytest.mark.parametrize("text", ["", "\n", "  \n"])
def test_an_empty_file_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "worker").write_text(text)
    with pytest.raises(WarrenError) as caught:
        load(tmp_path)
    assert caught.value.code is ExitCode.SETTINGS
    assert str(caught.value) == (
        f"the secret {tmp_path / 'worker'} is empty; write the password into it, or delete it for a new one"
    )
    assert (tmp_path / "worker").read_text() == text


def test_one_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "worker").mkdir()
    with pytest.raises(WarrenError, match=r"^the secret .*worker can't be used: .+; check who owns it$") as caught:
        load(tmp_path)
    assert caught.value.code is ExitCode.SETTINGS


def test_one_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "worker").write_bytes(b"caf\xe9")
    with pytest.raises(WarrenError, match=r"^the secret .*worker is no text; write the password into it") as caught:
        load(tmp_path)
    assert caught.value.code is ExitCode.SETTINGS


def test_processes_that_start_together_agree(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from deploy.secrets import load; sys.stdin.read(); "
        "print(sorted(load(Path(sys.argv[1])).items()))"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            cwd=ROOT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(6)
    ]
    for one in started:
        assert one.stdin
        one.stdin.close()  # all of them are let go as nearly at once as can be
    said = []
    for one in started:
        assert one.stdout
        said.append(one.stdout.read())
        one.stdout.close()
        assert one.wait() == 0
    assert set(said) == {f"{sorted(load(tmp_path).items())}\n"}
    assert {file.name for file in tmp_path.iterdir()} == set(NAMES)


def test_who_comes_second_takes_what_the_first_one_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow() -> str:
        (tmp_path / "ops").write_text("the first one's\n")
        return "the second one's"

    monkeypatch.setattr(module, "generate", slow)
    assert module.one(tmp_path / "ops") == "the first one's"
    assert [file.name for file in tmp_path.iterdir()] == ["ops"]


def test_their_repr_shows_names_only(tmp_path: Path) -> None:
    made = load(tmp_path)
    for text in (repr(made), str(made), f"{made}", f"{[made]}"):
        assert all(name in text for name in NAMES)
        assert not any(value in text for value in made.values())


def test_every_role_is_a_name() -> None:
    assert set(ROLES) <= set(NAMES)
    assert "guest" not in NAMES


# --- where they must not turn up


def test_compose_variables_hold_no_secret_and_files_that_do_are_private(home: Path, settings: Settings) -> None:
    made = load(home / ".warren" / "secrets")
    Compose(settings, made, FakeRunner()).write()  # type: ignore[arg-type]
    written = [file for file in (home / ".warren").rglob("*") if file.is_file()]
    assert {file.name for file in written} > {"compose.env", "definitions.json", "worker.env", "30-settings.conf"}
    assert not any(value in (home / ".warren" / "compose.env").read_text() for value in made.values())
    for file in written:
        if any(value in file.read_text() for value in made.values()) or "password" in file.read_text():
            assert mode(file) == 0o600, file


def test_the_environment_of_a_service_has_the_secrets_of_its_own_user_only(
    settings: Settings, secrets: Secrets
) -> None:
    from deploy.services import environments

    for service, values in environments(settings, secrets, "rabbitmq", 5672, 15672).items():
        found = {name for name, secret in secrets.items() if any(secret in value for value in values.values())}
        own = {name for name in secrets if name.startswith(service)}
        # Its page revokes tasks and sends them again.
        lent = {"ops", "producer"} if service == "monitor" else set()
        # "password-of-flower" is also the beginning of "password-of-flower-login".
        assert found == own | lent, service


def test_the_definitions_hold_hashes_instead_of_passwords(settings: Settings, secrets: Secrets) -> None:
    from deploy.definitions import definitions

    assert not any(secret in str(definitions(settings, secrets)) for secret in secrets.values())


def test_writing_privately_is_all_or_nothing_and_says_whether_it_changed_anything(tmp_path: Path) -> None:
    file = tmp_path / "new" / "file"
    assert write_private(file, "one")
    assert not write_private(file, "one")
    before = file.stat().st_ino
    assert write_private(file, "two")
    assert (file.read_text(), mode(file), mode(file.parent)) == ("two", 0o600, 0o700)
    assert file.stat().st_ino != before
    assert [one.name for one in file.parent.iterdir()] == ["file"]


# --- hashes


def verifies(password: str, hashed: str) -> bool:
    """As RabbitMQ does it (rabbitmq.com/docs/passwords): sha256 of salt and password, behind the salt's four bytes."""
    raw = base64.b64decode(hashed, validate=True)
    return len(raw) == 36 and raw[4:] == hashlib.sha256(raw[:4] + password.encode()).digest()


def test_the_scheme_is_that_of_rabbitmqs_documented_example() -> None:
    assert verifies("test12", "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR")


@pytest.mark.parametrize("password", ["test12", "", "pass wörd", "x" * 200])
def test_hashes(password: str) -> None:
    assert verifies(password, password_hash(password))
    assert not verifies(password + "x", password_hash(password))
    assert password_hash(password) == password_hash(password)


def test_salts_differ_with_the_password() -> None:
    assert len({base64.b64decode(password_hash(f"p{number}"))[:4] for number in range(50)}) == 50
