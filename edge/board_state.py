"""What was decided on the board itself and outlives a restart: who wears what, enrolments made here, who is muted.

One JSON file beside the store, replaced as a whole; the gateway's TOML file is never written. Where that file says
something else about a device or an enrolment than it did when the decision was made, the file is newer, and counts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, ValidationError

from kinedge.config import Config
from kinedge.edge.config import GatewayConfig, Name
from kinedge.errors import StoreError

__all__ = ["Assigned", "BoardState", "BoardStateFile", "Enrolled", "Enrolling", "board_state_path"]

_MAX_BYTES: Final = 1 << 20


class Assigned(Config):
    """A device that was given to somebody, or taken from them."""

    subject: Name | None = Field(description="none: nobody's")
    sensor: str | None = Field(default=None, description="its place, where another was said than it says itself")
    configured: Name | None = Field(default=None, description="whose it was by the TOML file then")


class Enrolled(Config):
    """An enrolment that was made on this board."""

    file: Path
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    configured: Path | None = Field(default=None, description="what the TOML file said then")


class Enrolling(Config):
    """How the last attempt to enrol somebody stands."""

    state: Literal["collecting", "fitting", "done", "failed"]
    minutes: float = Field(gt=0, le=240)
    seconds: float = Field(default=0.0, ge=0)
    recorded_s: float = Field(default=0.0, ge=0)
    text: dict[Literal["en", "fr"], str] = Field(default_factory=dict)
    audit: dict[str, Any] | None = None


class BoardState(Config):
    """Everything of it."""

    schema_: Literal["kinedge.board-state/1"] = Field(default="kinedge.board-state/1", alias="schema")
    assigned: dict[str, Assigned] = Field(default_factory=dict, max_length=4096)
    enrolled: dict[Name, Enrolled] = Field(default_factory=dict, max_length=4096)
    enrolling: dict[Name, Enrolling] = Field(default_factory=dict, max_length=4096)
    muted: dict[Name, int] = Field(default_factory=dict, max_length=4096, description="until when, UTC ns")
    last_sync_utc_ns: int | None = None

    model_config = Config.model_config | {"populate_by_name": True}


def board_state_path(store: Path) -> Path:
    """Return where it is kept: beside the store."""
    return store.with_suffix(".board.json")


class BoardStateFile:
    """Reads the file once, and replaces it with every change.

    Parameters
    ----------
    path
        Of the file.
    note
        Told what is worth knowing: a file that cannot be read is put aside.

    Attributes
    ----------
    state
        As it stands.
    """

    def __init__(self, path: Path, note: Callable[[str], None]) -> None:
        self.path = path
        self.state = BoardState()
        try:
            with path.open("rb") as file:
                data = file.read(_MAX_BYTES + 1)
        except FileNotFoundError:
            return
        except OSError as e:
            note(f"{path}: cannot be read ({e.strerror}); what was decided on the board before is not known")
            return
        try:
            self.state = BoardState.model_validate_json(data)
        except ValidationError as e:
            aside = path.with_name(path.name + ".aside")
            try:
                path.replace(aside)
            except OSError:
                aside = path
            note(f"{path}: not readable ({e.error_count()} faults); it was put aside as {aside.name}")

    def change(self, **changes: Any) -> None:
        """Replace some of it, in memory; ``save`` writes it."""
        self.state = self.state.model_copy(update=changes)

    def save(self) -> None:
        """Write it; blocks for the disk.

        Raises
        ------
        StoreError
            The disk refuses it.
        """
        part = self.path.with_name(self.path.name + ".part")
        data = self.state.model_dump_json(by_alias=True, indent=1).encode()
        try:
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(data + b"\n")
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.path)
        except OSError as e:
            raise StoreError(f"{self.path}: cannot be written ({e.strerror}); a restart will not know this") from e

    def forget(self, subject: str) -> list[Path]:
        """Drop all that names a person, and the enrolments made here of them; returns what was deleted.

        Raises
        ------
        StoreError
            The disk refuses it.
        """
        state = self.state

        def others(table: Mapping[str, Any]) -> dict[str, Any]:
            return {who: own for who, own in table.items() if who != subject}

        own = state.enrolled.get(subject)
        gone = [] if own is None or not own.file.is_file() else [own.file]
        self.change(
            assigned={w: a for w, a in state.assigned.items() if subject not in (a.subject, a.configured)},
            enrolled=others(state.enrolled),
            enrolling=others(state.enrolling),
            muted=others(state.muted),
        )
        if self.state != state:
            self.save()
        for path in gone:
            path.unlink(missing_ok=True)
        return gone

    def applied_to(self, config: GatewayConfig, note: Callable[[str], None]) -> GatewayConfig:
        """Return a configuration with the enrolments that were made here, where the TOML file says what it said then.

        What counts no longer is dropped.
        """
        enrolled = dict(self.state.enrolled)
        people = []
        for person in config.people:
            own = enrolled.get(person.subject)
            if own is not None and own.configured != person.enrolment:
                note(f"{person.subject}: the configuration names another enrolment now; the one made here is not used")
                del enrolled[person.subject]
                own = None
            elif own is not None and not own.file.is_file():
                note(f"{person.subject}: {own.file}, the enrolment made here, is gone; the configuration's is used")
                del enrolled[person.subject]
                own = None
            people.append(person if own is None else person.model_copy(update={"enrolment": own.file}))
        self.change(enrolled=enrolled)
        return config.model_copy(update={"people": tuple(people)})
