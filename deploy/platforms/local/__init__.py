"""The stack as processes of this host, for machines without Docker."""

from deploy.platforms.local.platform import Local

__all__ = ["Local"]
