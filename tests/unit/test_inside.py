"""What runs in the cluster beside the app: what makes the passwords, and what configures a broker's pod."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.definitions import broker_settings, definitions
from deploy.inside import broker
from deploy.paths import ROOT
from deploy.platforms.compose.image import IMAGE_SOURCES, sources
from deploy.secrets import KEDA, NAMES, Secrets
from deploy.services import environments
from deploy.settings import Settings

CONFIG = ROOT / "k8s" / "base" / "config"


@pytest.fixture
def maker() -> Any:
    spec = importlib.util.spec_from_file_location("make_secrets", CONFIG / "make_secrets.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def account(maker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a pod finds of its cluster."""
    (tmp_path / "token").write_text("the token")
    monkeypatch.setattr(maker, "ACCOUNT", tmp_path)
    monkeypatch.setattr(maker, "certificate", lambda namespace: {"tls.crt": "C", "tls.key": "K"})
    monkeypatch.setattr(maker.time, "sleep", lambda _: None)
    monkeypatch.setattr(ssl, "create_default_context", lambda cafile: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    for name, value in {
        "NAMESPACE": "shop",
        "KUBERNETES_SERVICE_HOST": "fd00::1",
        "KUBERNETES_SERVICE_PORT": "443",
    }.items():
        monkeypatch.setenv(name, value)


def refusal(code: int) -> urllib.error.HTTPError:
    return urllib.error.HTTPError("https://x", code, "no", None, io.BytesIO(b"said"))  # type: ignore[arg-type]


def test_it_makes_every_password_that_other_platforms_have(maker: Any) -> None:
    assert (*NAMES, "erlang-cookie") == maker.PASSWORDS
    made = [maker.password() for _ in range(50)]
    assert len(set(made)) == 50
    assert all(re.fullmatch(r"[\w][\w-]{31}", one) for one in made)


def body(request: urllib.request.Request) -> Any:
    assert isinstance(request.data, bytes)
    return json.loads(request.data)


def test_all_of_them_are_made_in_one_request(maker: Any, account: None, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[urllib.request.Request] = []
    monkeypatch.setattr(urllib.request, "urlopen", lambda request, **_: asked.append(request) or io.BytesIO())
    assert maker.main([]) == 0
    (request,) = asked
    assert request.full_url == "https://[fd00::1]:443/api/v1/namespaces/shop/secrets"
    assert (request.method, request.headers["Authorization"]) == ("POST", "Bearer the token")
    made = body(request)
    assert (made["kind"], made["metadata"]["name"]) == ("Secret", "warren")
    assert set(made["data"]) == {*NAMES, "erlang-cookie", "tls.crt", "tls.key"}
    assert base64.b64decode(made["data"]["tls.crt"]) == b"C"


def test_kedas_login_is_a_secret_of_its_own(
    maker: Any, account: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[urllib.request.Request] = []
    monkeypatch.setattr(urllib.request, "urlopen", lambda request, **_: asked.append(request) or io.BytesIO())
    assert maker.main(["keda"]) == 0
    made = body(asked[0])
    assert (made["type"], made["metadata"]["name"]) == ("kubernetes.io/basic-auth", "warren-keda")
    assert made["stringData"]["username"] == KEDA
    assert capsys.readouterr().out == "made the Secret warren-keda\n"


@pytest.mark.parametrize(("answers", "code", "said"), [
    ([refusal(409)], 0, "the Secret warren is there already; nothing is changed"),
    # The role came a moment after the pod.
    ([refusal(403), urllib.error.URLError("refused"), io.BytesIO()], 0, "made the Secret warren"),
])  # fmt: skip
def test_what_the_api_server_may_answer(
    maker: Any,
    account: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answers: list[Any],
    code: int,
    said: str,
) -> None:
    left = list(answers)

    def answer(request: Any, **_: Any) -> Any:
        if isinstance(found := left.pop(0), Exception):
            raise found
        return found

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    assert maker.main([]) == code
    assert capsys.readouterr().out == f"{said}\n"
    assert not left


def test_it_gives_up_in_the_end(maker: Any, account: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maker, "PATIENCE", -1)
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: (_ for _ in ()).throw(OSError("no route")))
    assert maker.main([]) == 1


# The longest name that a namespace may have is no exception.
@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
@pytest.mark.parametrize("namespace", ["shop", "s" * 63])
def test_the_certificate_is_of_the_services(maker: Any, tmp_path: Path, namespace: str) -> None:
    made = maker.certificate(namespace)
    (tmp_path / "tls.crt").write_text(made["tls.crt"])
    text = subprocess.run(
        ["openssl", "x509", "-noout", "-text", "-in", tmp_path / "tls.crt"], capture_output=True, text=True, check=True
    ).stdout
    for name in ("rabbitmq", f"rabbitmq.{namespace}.svc", f"*.rabbitmq-nodes.{namespace}", "flower"):
        assert re.search(rf"DNS:{re.escape(name)}(,|$)", text, re.MULTILINE)
    assert made["tls.key"].startswith("-----BEGIN PRIVATE KEY-----")


def test_what_openssl_says_of_no_certificate_stands_in_the_log(
    maker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "openssl").write_text("#!/bin/sh\necho no room left >&2\nexit 1\n")
    (tmp_path / "openssl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("NAMESPACE", "shop")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "1")
    monkeypatch.setattr(maker, "PATIENCE", -1)
    assert maker.main([]) == 1
    said = "error: the Secret warren can't be made: openssl made no certificate: no room left\n"
    assert capsys.readouterr().err == said


def test_a_broker_gets_what_it_has_on_other_platforms(tmp_path: Path) -> None:
    settings = Settings(queues=("a", "b"), rabbitmq_memory_mb=2000)
    secrets = Secrets({**{name: f"password-of-{name}" for name in NAMES}, "erlang-cookie": "cookie"})
    config, data = tmp_path / "config", tmp_path / "data"
    config.mkdir()
    data.mkdir()
    for _ in range(2):  # as after a restart of the pod
        broker.write(settings, secrets, 3, config, data)
    assert json.loads((config / "definitions.json").read_text()) == definitions(settings, secrets)
    assert (config / "conf.d" / "30-settings.conf").read_text() == broker_settings(settings)
    common = ROOT / "deploy" / "rabbitmq" / "conf.d" / "20-warren.conf"
    assert (config / "conf.d" / "20-warren.conf").read_text() == common.read_text()
    assert "target_cluster_size_hint = 3" in (config / "conf.d" / "40-cluster.conf").read_text()
    assert "rabbitmq_peer_discovery_k8s" in (config / "enabled_plugins").read_text()
    cookie = data / ".erlang.cookie"
    # Erlang refuses one that others may read.
    assert (cookie.read_text(), cookie.stat().st_mode & 0o777) == ("cookie", 0o400)


def test_a_node_that_is_alone_looks_for_no_others(tmp_path: Path) -> None:
    broker.write(Settings(), Secrets(dict.fromkeys((*NAMES, "erlang-cookie"), "x")), 1, tmp_path, tmp_path)
    assert not (tmp_path / "conf.d" / "40-cluster.conf").exists()
    assert "peer_discovery" not in (tmp_path / "enabled_plugins").read_text()


@pytest.mark.parametrize("taken", [False, True])
def test_keda_gets_a_user_where_its_password_is_mounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: bool
) -> None:
    mounted = tmp_path / "secrets"
    mounted.mkdir()
    for name in (*NAMES, "erlang-cookie"):
        (mounted / name).write_text(f"password-of-{name}")
    if taken:
        (tmp_path / "secrets-keda").mkdir()
        (tmp_path / "secrets-keda" / "password").write_text("of keda")
    monkeypatch.setenv("WARREN_SECRETS", str(mounted))
    monkeypatch.setenv("WARREN_RABBITMQ_NODES", "1")
    assert broker.main([str(tmp_path), str(tmp_path)]) == 0
    made = json.loads((tmp_path / "definitions.json").read_text())
    assert (KEDA in {one["name"] for one in made["users"]}) is taken


def test_a_wrong_setting_is_a_line_in_the_pods_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WARREN_SECRETS", str(tmp_path))
    monkeypatch.setenv("WARREN_QUEUES", "A.B")
    assert broker.main([str(tmp_path), str(tmp_path)]) == 3
    assert capsys.readouterr().err.startswith("error: WARREN_QUEUES=A.B (in the environment) is not a list")


@pytest.mark.parametrize(
    ("value", "has"),
    [("secret\n", "ends with a line break"), ("a/b", "has other characters"), ("a#b", "has other"), ("", "is empty")],
)
def test_a_password_that_no_address_takes_is_a_line_in_the_pods_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], value: str, has: str
) -> None:
    """Else every pod but the broker's would say so, in words of its own."""
    for name in (*NAMES, "erlang-cookie"):
        (tmp_path / name).write_text("secret")
    (tmp_path / "producer").write_text(value)
    monkeypatch.setenv("WARREN_SECRETS", str(tmp_path))
    assert broker.main([str(tmp_path), str(tmp_path)]) == 3
    said = capsys.readouterr().err
    assert said.startswith("error: producer of the Secret warren ")
    assert has in said
    assert value.strip() not in said or not value
    assert not (tmp_path / "definitions.json").exists()


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("secrets/producer", "producer of the Secret warren"),
        ("secrets/erlang-cookie", "erlang-cookie of the Secret warren"),
        ("secrets-keda/password", "password of the Secret warren-keda"),
    ],
)
def test_a_password_that_is_no_text_is_a_line_in_the_pods_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], key: str, said: str
) -> None:
    for folder, names in {"secrets": (*NAMES, "erlang-cookie"), "secrets-keda": ("password",)}.items():
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).write_text("secret")
    (tmp_path / key).write_bytes(b"caf\xe9")
    monkeypatch.setenv("WARREN_SECRETS", str(tmp_path / "secrets"))
    assert broker.main([str(tmp_path), str(tmp_path)]) == 3
    assert capsys.readouterr().err.startswith(f"error: {said} is no text (UTF-8); mend it")


def test_the_image_has_what_that_needs(tmp_path: Path) -> None:
    for place in IMAGE_SOURCES:
        for file in sources(ROOT / place):
            if (name := file.relative_to(ROOT)).parts[0] == "deploy":
                (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, tmp_path / name)
    code = "import deploy.inside.broker as b; print(b.__file__)"
    places = f"{tmp_path}{os.pathsep}{ROOT}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": places},
    )  # fmt: skip
    assert done.stdout.startswith(str(tmp_path))


def test_the_image_is_built_from_what_its_name_is_made_of() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert {line[1:] for line in lines if line.startswith("!")} == set(IMAGE_SOURCES)


def container(service: str) -> dict[str, Any]:
    deployment = yaml.safe_load((ROOT / "k8s" / "base" / service / "deployment.yaml").read_text())
    (found,) = deployment["spec"]["template"]["spec"]["containers"]
    return dict(found)


@pytest.mark.parametrize("service", ["worker", "monitor", "flower"])
def test_pods_get_the_environment_that_containers_get(service: str) -> None:
    """From ConfigMaps, the Secret, and the rest; passwords stand in the Secret alone."""
    found: dict[str, str] = {}
    for source in container(service)["envFrom"]:
        if "configMapRef" in source:
            stem = source["configMapRef"]["name"].removeprefix("warren-")
            lines = (CONFIG / f"{stem}.env").read_text().splitlines()
            found |= dict(line.split("=", 1) for line in lines if line and line[0] != "#")
    held = {}
    for variable in container(service)["env"]:
        source = variable.get("valueFrom", {})
        if "secretKeyRef" in source:
            held[variable["name"]] = f"password-of-{source['secretKeyRef']['key']}"
            found[variable["name"]] = held[variable["name"]]
        elif "configMapKeyRef" in source:
            found[variable["name"]] = found[source["configMapKeyRef"]["key"]]
        else:
            found[variable["name"]] = re.sub(r"\$\((\w+)\)", lambda name: held[name[1]], variable["value"])
    secrets = Secrets({name: f"password-of-{name}" for name in NAMES})
    wanted = environments(Settings(), secrets, "rabbitmq", 5672, 15672)[service]
    # A pod may have addresses of IPv6 alone. For Flower, all of them is no address.
    address = f"{service.upper()}_ADDRESS"
    if address in wanted:
        del wanted[address]
        assert found.get(address, "*") == "*"
    assert {name: found.get(name) for name in wanted} == wanted
