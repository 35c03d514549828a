"""The overlay of this checkout: what .env says, put over one of `k8s/overlays`, below `.warren/kubernetes`."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.environment import as_text
from app.pools import POOLS, Pool
from deploy.errors import ExitCode, WarrenError
from deploy.paths import ROOT, STATE, private_folder, write_private
from deploy.platforms.kubernetes.kubectl import PART
from deploy.platforms.kubernetes.pods import SERVICE
from deploy.platforms.kubernetes.scalers import Scalers
from deploy.platforms.kubernetes.setup import FILE, Setup
from deploy.private import without_secrets
from deploy.services import known_to_all, of_its_workers, of_pool
from deploy.settings import Settings, dotenv, known

__all__ = ["FOLDER", "OURS", "apart", "base", "images", "names", "ours", "text", "write"]

# What is applied, by whoever has the lock.
FOLDER = STATE / "kubernetes" / "overlay"
KUSTOMIZATION = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
# The label of the pools that are made from the settings.
OURS = "app.kubernetes.io/managed-by=invoke"
CONCURRENCY = "WARREN_WORKER_CONCURRENCY"
CONFIG = ROOT / "k8s" / "base" / "config"
# Where people say how many workers there are.
NOBODY = Scalers()
# Where the broker's pods have the image that all have.
SAME = Setup()


def base(settings: Settings, name: str = "") -> Path:
    """The folder of the overlay ``name``, else of WARREN_KUBE_OVERLAY: one of ours, or the path of one's own.

    Raises:
        WarrenError: there is none of that name (exit code 3).
    """
    asked = name or settings.kube_overlay
    for place in (ROOT / "k8s" / "overlays" / asked, ROOT / asked):
        if (place / "kustomization.yaml").is_file():
            return place.resolve()
    raise WarrenError(
        f"there is no overlay {asked!r}; choose one of {', '.join(names())}, or name a folder with a kustomization.yaml",
        ExitCode.SETTINGS,
    )


def names() -> list[str]:
    """The overlays of this checkout."""
    return sorted(place.parent.name for place in (ROOT / "k8s" / "overlays").glob("*/kustomization.yaml"))


def ours(place: Path) -> bool:
    """Whether the overlay at ``place`` is one of this project's."""
    return place.parent == (ROOT / "k8s" / "overlays").resolve()


@contextmanager
def apart() -> Iterator[Path]:
    """A folder for an overlay that is only looked at, while another command may apply the one in FOLDER; it goes again."""
    with tempfile.TemporaryDirectory(prefix="look-", dir=private_folder(FOLDER.parent)) as name:
        yield Path(name)


def write(
    settings: Settings,
    image: str,
    place: Path,
    scaled: Mapping[str, int | None],
    scalers: Scalers = NOBODY,
    setup: Setup = SAME,
    folder: Path | None = None,
) -> Path:
    """Writes the overlay over ``place`` into ``folder``, or where it is applied from, and says where.

    ``scaled`` is what it says of the number of workers, by service: None takes away what ``place`` says; of a service that
    it does not have, nothing is said. ``scalers`` is what ``place`` has to decide on it, ``setup`` the image for its broker.
    """
    folder = folder or FOLDER
    content = kustomization(settings, image, os.path.relpath(place, folder), scaled)
    content["patches"] += scalers.patches(settings.default_pool)
    for pool in settings.pools:
        own = folder / of_pool(pool)
        write_private(own / "kustomization.yaml", text(pool_of_workers(pool, scalers, own)))
        content["resources"].append(of_pool(pool))
    if setup.kinds:
        write_private(folder / FILE, json.dumps(setup.resource()))
        content["resources"].append(FILE)
        content["replacements"] = setup.replacements()
    if (ROOT / "app.env").exists():
        content["secretGenerator"].append({"name": "app-env", "literals": own_literals()})
    if private := changed(settings, secret=True):
        content["secretGenerator"].append({"name": "private-settings", "literals": quoted(private)})
    if settings.flower_oauth2_secret:
        write_private(folder / "flower-oauth.env", f"FLOWER_OAUTH2_SECRET={settings.flower_oauth2_secret}\n")
        content["secretGenerator"].append({"name": "flower-oauth", "envs": ["flower-oauth.env"]})
    write_private(folder / "kustomization.yaml", text(content))
    return folder


def own_literals() -> list[str]:
    """The user's variables for tasks. kustomize would read the file otherwise than the other platforms do.

    Raises:
        WarrenError: a line of app.env can't be read.
    """
    values, wrong = dotenv(ROOT / "app.env")
    if wrong:
        raise WarrenError("\n".join(wrong), ExitCode.SETTINGS)
    return quoted(values)


def quoted(values: Mapping[str, str]) -> list[str]:
    """Variables as literals of kustomize, which takes one pair of quotes away."""
    return [f'{name}="{value}"' for name, value in values.items()]


def text(content: dict[str, Any]) -> str:
    """JSON is YAML, and needs no library."""
    # As it is: YAML has no halves of a character, which JSON has for all beyond U+FFFF.
    return json.dumps({**KUSTOMIZATION, **content}, indent=1, ensure_ascii=False) + "\n"


def kustomization(settings: Settings, image: str, place: str, scaled: Mapping[str, int | None]) -> dict[str, Any]:
    patches = [patch("Deployment", service, {"replicas": count}) for service, count in scaled.items()]
    spec: dict[str, Any] = {}
    if settings.task_time_limit != Settings().task_time_limit:
        spec |= grace(settings.default_pool)
    if settings.worker_concurrency != Settings().worker_concurrency:
        spec["containers"] = [own_variables({CONCURRENCY: settings.worker_concurrency})]
    if spec:
        patches.append(patch("Deployment", "worker", of_pods(spec)))
    if settings.rabbitmq_memory_mb != Settings().rabbitmq_memory_mb:
        memory = {"memory": f"{settings.rabbitmq_memory_mb}Mi"}
        broker = {"name": "rabbitmq", "resources": {"requests": memory, "limits": memory}}
        patches.append(patch("StatefulSet", "rabbitmq", of_pods({"containers": [broker]})))
    return {
        "namespace": settings.project,
        "resources": [place],
        "images": images(settings, image),
        # By which what is old is found (generated.py); those of the base have it.
        "generatorOptions": {"labels": dict([PART.split("=")])},
        "configMapGenerator": merged(settings),
        "secretGenerator": [],
        "patches": patches,
    }


def pool_of_workers(pool: Pool, scalers: Scalers, folder: Path) -> dict[str, Any]:
    """The default pool's workers under another name, with queues and limits of their own (from the ConfigMap, by its name).

    It is to stand in ``folder``.
    """
    spec = of_pods({**grace(pool), "containers": [own_variables(of_its_workers(pool))]})
    whole = {"app.kubernetes.io/instance": "warren", "app.kubernetes.io/part-of": "warren"}
    return {
        "resources": [os.path.relpath(ROOT / "k8s" / "base" / "worker", folder)],
        "components": scalers.components(folder),
        "nameSuffix": f"-{pool.name}",
        "labels": [
            {"pairs": {SERVICE: of_pool(pool)}, "includeSelectors": True},
            {"pairs": whole, "includeTemplates": True},
            {"pairs": dict([OURS.split("=")])},
        ],
        "patches": [
            *(patch("Deployment", "worker", spec), *scalers.ranks()),
            *(*scalers.addresses(), *scalers.patches(pool)),
        ],
    }


def grace(pool: Pool) -> dict[str, Any]:
    return {"terminationGracePeriodSeconds": pool.stop_grace}


def own_variables(values: Mapping[str, str]) -> dict[str, Any]:
    """What only these workers are told, so that another value restarts nobody else."""
    return {"name": "worker", "env": [{"name": name, "value": value} for name, value in values.items()]}


def of_pods(spec: dict[str, Any]) -> dict[str, Any]:
    return {"template": {"spec": spec}}


def images(settings: Settings, app: str) -> list[dict[str, Any]]:
    """The images that the settings name, ``app`` as the app image, as kustomize takes them.

    Of others the overlay decides: what it pins would be gone here, a broker's version or a digest.
    """
    named = {"rabbitmq": (settings.rabbitmq_image, Settings().rabbitmq_image)}
    named["python"] = (settings.python_image, Settings().python_image)
    others = [{"name": name, **parts(to)} for name, (to, default) in named.items() if to != default]
    return [{"name": "warren-app", **parts(app)}, *others]


def parts(image: str) -> dict[str, str]:
    """``image`` as kustomize takes it."""
    name, at, digest = image.partition("@")
    if at:
        return {"newName": name, "digest": digest}
    host, slash, last = name.rpartition("/")
    last, colon, tag = last.partition(":")
    return {"newName": f"{host}{slash}{last}", "newTag": tag if colon else "latest"}


def merged(settings: Settings) -> list[dict[str, Any]]:
    """The settings that are not their defaults, each for the ConfigMap that has it."""
    values = changed(settings, secret=False)
    found: list[dict[str, Any]] = []
    for file in sorted(CONFIG.glob("*.env")):
        names = variables(file)
        told = {name: values[name] for name in names if name in values}
        if literals := quoted(told | (known_to_all(settings) if POOLS in names else {})):
            found.append({"name": f"warren-{file.stem}", "behavior": "merge", "literals": literals})
    return found


def variables(file: Path) -> list[str]:
    """The names that ``file`` gives values."""
    return [line.partition("=")[0] for line in file.read_text().splitlines() if line and line[0] != "#"]


def changed(settings: Settings, *, secret: bool) -> dict[str, str]:
    """The settings of pods that are not their defaults: those that may hold a password, or all others.

    Whoever may look at a namespace reads its ConfigMaps, and differences show them; Secrets not.
    """
    ours = {name for file in CONFIG.glob("*.env") for name in variables(file)}
    values = {
        name: as_text(getattr(settings, variable.field))
        for name, variable in known().items()
        if name in ours and getattr(settings, variable.field) != variable.default
    }
    return {name: value for name, value in values.items() if (without_secrets(name, value) != value) is secret}


def patch(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    version = {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}}
    # By its label too: what kustomize made of it under another name, such as a pool, has the first name as well for it.
    target = {"kind": kind, "name": name, "labelSelector": f"{SERVICE}={name}"}
    return {"target": target, "patch": json.dumps({**version, "spec": spec}, ensure_ascii=False)}
