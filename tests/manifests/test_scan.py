"""What a policy scanner says of every manifest that any overlay or component makes.

A finding is mended, or stands in EXCEPTIONS with the reason why it is right as it is.
"""

from __future__ import annotations

from fnmatch import fnmatch

import pytest

from tests.support import scanner
from tests.support.manifests import Manifest, different

# Check of the scanner: what of ours fails it, and why that stays.
EXCEPTIONS = {
    # Image Pull Policy should be Always
    "CKV_K8S_15": (
        ["Deployment.*", "Job.*.make-*", "StatefulSet.*.rabbitmq"],
        "Images have versions. Asking the registry at each start would make it one more thing that a restart needs, and "
        "clusters without one could not run them at all.",
    ),
    # Image should use digest
    "CKV_K8S_43": (
        ["Deployment.*", "Job.*.make-*", "StatefulSet.*.rabbitmq"],
        "The app image is everybody's own build, and the others' may come from a mirror. An overlay pins them: `images: "
        "[{name: rabbitmq, digest: ...}]`.",
    ),
    # Prefer using secrets as files over secrets as environment variables
    "CKV_K8S_35": (
        ["Deployment.*"],
        "Celery and Flower take addresses with passwords from the environment, as users' own apps do; their processes run "
        "tasks of the same trust.",
    ),
    # Containers should run as a high UID to avoid host conflict
    "CKV_K8S_40": (
        ["StatefulSet.*.rabbitmq"],
        "999 is the user of the official image, to whom its files belong.",
    ),
    # Liveness Probe Should be Configured
    "CKV_K8S_8": (
        ["StatefulSet.*.rabbitmq"],
        "A broker that recovers, or waits for the other nodes, must not be killed for it.",
    ),
    # Ensure that Service Account Tokens are only mounted where necessary
    "CKV_K8S_38": (
        ["Job.*.make-*"],
        "Each creates a Secret, which is all that their account may.",
    ),
}

# Two of the most dangerous things there are, and one that is only careless.
PLANTED = {"CKV_K8S_16", "CKV_K8S_17", "CKV_K8S_13"}
BAD: Manifest = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "planted", "namespace": "planted"},
    "spec": {
        "selector": {"matchLabels": {"app": "planted"}},
        "template": {
            "metadata": {"labels": {"app": "planted"}},
            "spec": {
                "hostPID": True,
                "containers": [{"name": "bad", "image": "bad", "securityContext": {"privileged": True}}],
            },
        },
    },
}


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> set[tuple[str, str]]:
    return scanner.installed().findings(tmp_path_factory.mktemp("scan"), [*different(), BAD])


@pytest.mark.timeout(2000)
def test_the_scanner_finds_what_is_planted(findings: set[tuple[str, str]]) -> None:
    assert {check for check, what in findings if what == "Deployment.planted.planted"} >= PLANTED


@pytest.mark.timeout(2000)
def test_what_the_scanner_finds_is_mended_or_has_its_reason(findings: set[tuple[str, str]]) -> None:
    ours = {(check, what) for check, what in findings if ".planted." not in what}
    wrong = {
        (check, what)
        for check, what in ours
        if not any(fnmatch(what, one) for one in EXCEPTIONS.get(check, ([], ""))[0])
    }
    assert wrong == set()
    unused = [
        (check, pattern)
        for check, (patterns, _) in EXCEPTIONS.items()
        for pattern in patterns
        if not any(its == check and fnmatch(what, pattern) for its, what in ours)
    ]
    assert unused == [], "an exception that nothing needs"
