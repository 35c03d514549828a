"""deploy/platforms/kubernetes/context.py: which cluster is meant, and which nobody meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deploy.errors import ExitCode, WarrenError
from deploy.platforms.kubernetes import context
from deploy.platforms.kubernetes.context import Context, chosen
from tests.unit.conftest import FakeRunner

SERVERS = {"dev": "https://127.0.0.1:6443", "prod": "https://prod.example:6443"}


def runner(current: str = "dev") -> Any:
    return FakeRunner(
        {
            "kubectl config view": json.dumps(
                {
                    "current-context": current,
                    "contexts": [{"name": name, "context": {"cluster": f"c-{name}"}} for name in SERVERS],
                    "clusters": [{"name": f"c-{name}", "cluster": {"server": url}} for name, url in SERVERS.items()],
                }
            )
        }
    )


def configured(current: str, **contexts: tuple[str, str]) -> Any:
    """With ``contexts``, each with its cluster's entry and that one's server."""
    told = {
        "current-context": current,
        "contexts": [{"name": name, "context": {"cluster": entry}} for name, (entry, _) in contexts.items()],
        "clusters": [{"name": entry, "cluster": {"server": url}} for entry, url in set(contexts.values())],
    }
    return FakeRunner({"kubectl config view": json.dumps(told)})


def refused(named: str, current: str, *, confirmed: bool = False) -> WarrenError:
    with pytest.raises(WarrenError) as caught:
        chosen(named, confirmed, runner(current))
    return caught.value


@pytest.mark.parametrize(
    ("server", "here"),
    [
        ("https://127.0.0.1:6443", True),
        ("https://[::1]:6443", True),
        ("https://localhost:8443", True),
        ("https://10.0.0.1:6443", False),
        ("https://prod.example", False),
        ("https://localhost.prod.example", False),
        ("", False),
    ],
)
def test_a_cluster_on_this_host_is_known_by_its_address(server: str, here: bool) -> None:
    assert Context("any", server).here is here


def test_a_cluster_on_this_host_is_no_surprise(home: Path) -> None:
    assert chosen("", False, runner()) == Context("dev", SERVERS["dev"])


def test_one_elsewhere_is_used_by_who_names_or_confirms_it(home: Path) -> None:
    error = refused("", "prod")
    assert error.code is ExitCode.REFUSED
    assert "prod is a cluster elsewhere (https://prod.example:6443)" in str(error)
    assert "WARREN_KUBE_CONTEXT=prod" in str(error) and "--yes" in str(error)
    assert chosen("prod", False, runner("dev")).name == "prod"
    assert chosen("", True, runner("prod")).name == "prod"


def test_one_that_was_used_before_is_no_surprise_and_another_is(home: Path) -> None:
    context.remember(Context("prod", SERVERS["prod"]))
    assert chosen("", False, runner("prod")).name == "prod"
    error = refused("", "dev")
    assert error.code is ExitCode.REFUSED
    assert str(error) == (
        "kubectl's context is dev now, but this checkout's stack is in prod; "
        "say which is meant: WARREN_KUBE_CONTEXT=prod (or dev)"
    )
    assert chosen("dev", False, runner("dev")).name == "dev"


@pytest.mark.parametrize(
    ("used", "now", "surprise"),
    [
        (("one", "https://prod.example"), ("one", "https://prod.example"), False),
        (("one", "https://prod.example"), ("two", "https://prod.example"), False),
        (("one", SERVERS["dev"]), ("one", SERVERS["dev"]), False),
        # Tunnels, maybe, to a cluster each.
        (("one", SERVERS["dev"]), ("two", SERVERS["dev"]), True),
    ],
)
def test_another_context_of_the_same_cluster_is_no_surprise(
    home: Path, used: tuple[str, str], now: tuple[str, str], *, surprise: bool
) -> None:
    context.remember(Context("edit", used[1]))
    asked = configured("admin", edit=used, admin=now)
    if not surprise:
        assert chosen("", False, asked).name == "admin"
        return
    with pytest.raises(WarrenError, match="kubectl's context is admin now, but this checkout's stack is in edit"):
        chosen("", False, asked)


def test_another_cluster_under_the_same_name_is_a_surprise_unless_it_is_on_this_host(home: Path) -> None:
    context.remember(Context("prod", "https://test.example:6443"))
    error = refused("", "prod")
    assert error.code is ExitCode.REFUSED
    assert "prod is the cluster https://prod.example:6443 now, but this checkout's stack is in https://test.e" in str(
        error
    )
    assert chosen("prod", False, runner("dev")).name == "prod"
    context.remember(Context("dev", "https://127.0.0.1:7777"))
    assert chosen("", False, runner("dev")).name == "dev"


def test_a_context_that_there_is_not(home: Path) -> None:
    error = refused("stage", "dev")
    assert (error.code, str(error)) == (ExitCode.SETTINGS, "kubectl has no context 'stage'; it knows dev, prod")
    error = refused("", "")
    assert error.code is ExitCode.PLATFORM
    assert "kubectl knows no cluster; set KUBECONFIG" in str(error)


def test_no_configuration_at_all(home: Path) -> None:
    with pytest.raises(WarrenError, match="kubectl knows no cluster"):
        chosen("", False, FakeRunner({"kubectl config view": "{}"}))  # type: ignore[arg-type]


def test_kubectl_is_asked_again_when_its_files_change(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / name for name in ("one", "two")]
    for file in files:
        file.write_text("")
    monkeypatch.setenv("KUBECONFIG", ":".join(map(str, files)))
    asked = runner()
    assert chosen("", False, asked) == chosen("", False, asked) == Context("dev", SERVERS["dev"])
    assert len(asked.read_) == 1
    files[1].write_text("changed")
    changed = runner("prod")
    assert chosen("prod", False, changed).name == "prod" and changed.read_
    assert oct((context.USED.parent / "config.json").stat().st_mode & 0o777) == "0o600"
