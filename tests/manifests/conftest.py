"""Every overlay, and every component on top of each."""

from __future__ import annotations

import pytest

from tests.support.manifests import ALL, Manifest, rendered


@pytest.fixture(params=ALL, scope="session")
def manifests(request: pytest.FixtureRequest) -> tuple[Manifest, ...]:
    return rendered(request.param)
