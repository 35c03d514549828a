"""The live view on the terminal."""

from deploy.commands.watch.command import watch

__all__ = ["watch"]
