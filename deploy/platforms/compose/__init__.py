"""Docker Compose: the stack of `deploy/compose.yaml`."""

from deploy.platforms.compose.platform import Compose

__all__ = ["Compose"]
