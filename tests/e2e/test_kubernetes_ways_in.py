"""Who reaches the stack from outside: people through an Ingress, by host and below paths, producers of another namespace.

The dev overlay with the components ingress, tls and network-policies, whose certificates an authority of the test signs.
The tests share one stack and run in the order in which they stand here.
"""

from __future__ import annotations

import base64
import functools
import itertools
import json
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.paths import ROOT
from tests.support.browser import chromium
from tests.support.cluster import Cluster, named, reaches
from tests.support.edge import Looks
from tests.support.eventually import eventually
from tests.support.ingress import Authority, Ingress, addresses
from tests.support.ledger import LONG

# As docs/kubernetes-options.md has it: cert-manager makes these; here the test does.
MADE_BY_HAND = [
    {
        "target": {"group": "cert-manager.io"},
        "patch": json.dumps({"$patch": "delete", "kind": "any", "metadata": {"name": "any"}}),
    }
]


def awaited(cluster: Cluster, *command: str) -> None:
    """What kubectl waits for; again where that takes longer than kubectl may."""
    eventually(lambda: cluster.kubectl(*command, "--timeout=240s"), LONG, " ".join(command))


class Stack:
    """The stack in its namespace, and the authority that its certificates are of."""

    def __init__(self, cluster: Cluster, image: str, folder: Path) -> None:
        self.cluster = cluster
        self.image = image
        self.folder = folder
        self.authority = Authority(folder)
        self.host = f"flower.{cluster.namespace}.test"

    def secret(self, name: str, key: str) -> str:
        data = json.loads(self.cluster.kubectl("get", "secret", name, "--output", "json").stdout)["data"]
        return base64.b64decode(data[key]).decode()

    def apply(self, *components: str, **content: Any) -> None:
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": self.cluster.namespace,
            "resources": [os.path.relpath(ROOT / "k8s/overlays/dev", self.folder)],
            "components": [os.path.relpath(ROOT / "k8s/components" / one, self.folder) for one in components],
            "images": [{"name": "warren-app", "newTag": self.image.partition(":")[2]}],
            **content,
            "patches": [*MADE_BY_HAND, *content.get("patches", [])],
        }
        (self.folder / "kustomization.yaml").write_text(json.dumps(kustomization))
        self.cluster.kubectl("apply", "--kustomize", str(self.folder))

    def rolled_out(self) -> None:
        """Waits until all of it is what was applied last, and ready."""
        for what in ("statefulset/rabbitmq", "deployment/monitor", "deployment/flower", "deployment/worker"):
            awaited(self.cluster, "rollout", "status", what)

    def ingress(self) -> Ingress:
        return Ingress(self.host, self.secret("warren", "flower-login"), self.authority.certificate.read_text())

    def sent(self, task: str, *arguments: Any) -> str:
        code = f"from app import celery; print(celery.send_task('app.tasks.{task}', {arguments!r}).id)"
        return self.cluster.kubectl("exec", "deployment/worker", "--", "python3", "-c", code).stdout.split()[-1]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    addresses()
    found = named(f"e2e-{uuid.uuid4().hex[:8]}")
    shop = Cluster(found.context, f"{found.namespace}-shop")
    yield found
    shop.forget()
    found.forget()


@pytest.fixture(scope="module")
def stack(cluster: Cluster, app_image: str, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    made = Stack(cluster, app_image, tmp_path_factory.mktemp("ways-in"))
    cluster.kubectl("create", "namespace", cluster.namespace)
    certificate, key = made.authority.sign("flower", made.host, f"monitor.{cluster.namespace}.test")
    cluster.kubectl("create", "secret", "tls", "flower-tls", f"--cert={certificate}", f"--key={key}")
    certificate, key = made.authority.sign("rabbitmq", f"rabbitmq.{cluster.namespace}")
    cluster.kubectl(
        "create", "secret", "generic", "warren-broker-tls",
        f"--from-file=ca.crt={made.authority.certificate}", f"--from-file=tls.crt={certificate}", f"--from-file=tls.key={key}",
    )  # fmt: skip
    made.apply(
        *("ingress", "tls", "network-policies"),
        # As k8s/components/ingress/kustomization.yaml says.
        patches=[
            {
                "target": {"kind": "Ingress", "name": name},
                "patch": json.dumps(
                    [
                        {"op": "replace", "path": "/spec/rules/0/host", "value": f"{name}.{cluster.namespace}.test"},
                        {"op": "replace", "path": "/spec/tls/0/hosts/0", "value": f"{name}.{cluster.namespace}.test"},
                        {"op": "replace", "path": "/spec/tls/0/secretName", "value": "flower-tls"},
                    ]
                ),
            }
            for name in ("flower", "monitor")
        ],
    )
    made.rolled_out()
    return made


def test_flower_asks_for_its_login_behind_a_certificate_that_holds(stack: Stack) -> None:
    ingress = stack.ingress()
    eventually(lambda: ingress.get("/").status == 401, LONG, lambda: f"Flower asks for a login; {ingress.get('/')}")
    assert ingress.get("/api/tasks").headers["WWW-Authenticate"] == 'Basic realm="flower"'
    page = ingress.get("/", login=True)
    assert page.status == 200
    # Nobody's password goes over the net in the clear, and no cookie.
    assert all("; Secure" in cookie for cookie in page.headers.get_all("Set-Cookie") or ["no cookie"])
    led = ingress.get_plain("/tasks?x=1")
    assert led.status in {301, 302, 307, 308}
    assert re.fullmatch(rf"https://{re.escape(stack.host)}(:\d+)?/tasks\?x=1", led.headers["Location"])


def state_of(ingress: Ingress, task: str) -> str:
    """As Flower's API tells it."""
    return str(json.loads(ingress.get(f"/api/task/info/{task}", login=True).body)["state"])


@pytest.mark.browser
def test_flower_in_a_browser_terminates_what_runs(stack: Stack) -> None:
    ingress = stack.ingress()
    task = stack.sent("sleep", 200)
    with chromium(f"--host-resolver-rules=MAP *.test {ingress.secure[0]}") as browser:
        looks = Looks(browser, ingress)
        eventually(lambda: state_of(ingress, task) == "STARTED", LONG, "Flower knows that it runs")
        assert looks.go("/tasks").status == 200
        looks.shows("#tasks-table tbody tr", task, "STARTED")
        looks.follow(task)
        with looks.page.expect_response(f"**/api/task/revoke/{task}") as answered:
            looks.page.get_by_role("button", name="Terminate").click()
        assert answered.value.status == 200
        eventually(lambda: state_of(ingress, task) == "REVOKED", LONG, "it is terminated")
        looks.reloads_until(looks.page.get_by_text("REVOKED", exact=True).is_visible, "the page says so")
        looks.picture("kubernetes-flower")
        assert looks.wrong == []
        looks.context.close()


def test_a_producer_of_another_namespace_comes_in_by_tls_once_its_namespace_may(stack: Stack) -> None:
    shop = Cluster(stack.cluster.context, f"{stack.cluster.namespace}-shop")
    shop.kubectl("create", "namespace", shop.namespace)
    sleep = ("--command", "--", "sleep", "3600")
    shop.kubectl("run", "web", f"--image={stack.image}", "--image-pull-policy=IfNotPresent", *sleep)
    awaited(shop, "wait", "--for=condition=Ready", "pod/web")
    host = f"rabbitmq.{stack.cluster.namespace}"

    def reached(port: int) -> bool:
        return reaches(shop, "web", host, port)

    assert not reached(5671) and not reached(5672)
    shop.kubectl("label", "namespace", shop.namespace, "warren/producers=true")
    eventually(lambda: reached(5671), LONG, "the policy lets it in")
    assert not reached(15672)
    (application,) = (one for one in blocks("topology.md") if "no_declare" in one)
    (tls,) = blocks("kubernetes-options.md")
    code = "\n".join(
        [
            application.partition("if __name__")[0],
            "import ssl, sys",
            "open('/tmp/ca.crt', 'w').write(sys.argv[1])",
            tls.replace("PASSWORD", stack.secret("warren", "producer"))
            .replace("rabbitmq.warren", host)
            .replace('"ca.crt"', '"/tmp/ca.crt"'),
            "print(app.send_task('app.tasks.add', (2, 3)).get(timeout=240))",
        ]
    )
    run = (
        "exec",
        "web",
        "--",
        "env",
        "BROKER_URL=amqp://",
        "python3",
        "-c",
        code,
        stack.authority.certificate.read_text(),
    )
    assert shop.kubectl(*run).stdout.split()[-1] == "5"


def blocks(page: str) -> list[str]:
    """The pieces of Python of a page of the docs."""
    return re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / page).read_text(), re.MULTILINE | re.DOTALL)


def test_below_paths_of_one_host_and_with_a_login_elsewhere(stack: Stack) -> None:
    stack.cluster.kubectl("create", "secret", "generic", "flower-oauth", "--from-literal=FLOWER_OAUTH2_SECRET=hidden")
    back = "https://warren.example.test/flower/login"
    oauth = {
        "FLOWER_AUTH_PROVIDER": "flower.views.auth.GithubLoginHandler",
        "FLOWER_AUTH": "ann@example.org",
        "FLOWER_OAUTH2_KEY": "the-key",
        "FLOWER_OAUTH2_REDIRECT_URI": back,
    }
    literals = [f"{name}={value}" for name, value in oauth.items()]
    stack.apply(
        *("ingress-path", "tls", "network-policies"),
        configMapGenerator=[{"name": "warren-flower", "behavior": "merge", "literals": literals}],
    )
    stack.rolled_out()
    # The one from the first apply, which stands for itself.
    own = stack.secret("warren", "tls.crt")
    ingress = Ingress("warren.example.test", "", own)
    healthy = functools.partial(ingress.get, "/flower/healthcheck")
    eventually(lambda: healthy().status == 200, LONG, lambda: f"Flower is served; {healthy()}")
    assert ingress.certificate().split() == own.split()

    led = ingress.get("/flower/tasks", login=True)
    assert (led.status, led.headers["Location"]) == (302, "/flower/login?next=%2Fflower%2Ftasks")
    led = ingress.get("/flower/login")
    assert (led.status, led.headers["Location"].partition("?")[0]) == (302, "https://github.com/login/oauth/authorize")
    assert "redirect_uri=https%3A%2F%2Fwarren.example.test%2Fflower%2Flogin" in led.headers["Location"]

    assert ingress.get("/monitor").headers["Location"] == "/monitor/"
    assert ingress.get("/monitor/tasks").status == 401
    assert ingress.get("/monitor/tasks", token=stack.secret("warren", "monitor-token")).status == 200
    # Who guesses is known by the address that the controller saw, not by another one with each try.
    told = (f"198.18.{number // 256}.{number % 256}" for number in itertools.count())
    lies = ({"X-Real-Ip": one, "X-Forwarded-For": one} for one in told)
    guess = functools.partial(ingress.get, "/monitor/tasks", token="a guess")
    eventually(lambda: guess(lies=next(lies)).status == 429, LONG, "it has to wait")


@pytest.mark.browser
def test_the_monitors_page_below_its_path(stack: Stack) -> None:
    ingress = Ingress("warren.example.test", "", None)
    task = stack.sent("add", 20, 3)
    with chromium(f"--host-resolver-rules=MAP *.test {ingress.secure[0]}") as browser:
        looks = Looks(browser, ingress)
        looks.go("/monitor/live")
        looks.page.get_by_label("Password").fill(stack.secret("warren", "monitor-operator"))
        looks.page.get_by_role("button", name="Log in").click()
        looks.page.get_by_role("button", name="Pause").wait_for()
        assert looks.page.url == f"{ingress.url}/monitor/live"
        looks.go(f"/monitor/task/{task}")
        looks.shows("body", "SUCCESS", "app.tasks")
        looks.picture("kubernetes-monitor")
        assert looks.wrong == []
        looks.context.close()
