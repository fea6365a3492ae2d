"""The doors: the ``kinedge`` command. Rooms are imported when a command runs, so that the help is quick."""

from __future__ import annotations

from kinedge.cli.app import main

__all__ = ["main"]
