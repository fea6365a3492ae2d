"""What a running edge remembers, kept now and then, so that a restart goes on without a new warm-up.

One file beside the store, replaced as a whole: a line that names the format, the SHA-256 of what follows, and an npz of
plain arrays. It holds the forecaster's state, the sums of the last block, the health of the sensors, how they sit, and
the evidence of alarms; not the samples that were waiting for their hop, and not the clock maps, which find themselves
again within a second. What happened between the last checkpoint and the restart is missing, and shown as that.

A checkpoint is used only by the very model and settings that wrote it, for people with the same enrolment, on the same
boot of the machine (the monotonic clock is the grid's), and not after ten minutes: sensors may have been taken off.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.arrays import arrays_from_npz
from kinedge.canonical import sha256_hex
from kinedge.edge.pipeline import Pipeline
from kinedge.edge.redating import boot_id
from kinedge.errors import BundleError, SignalError, StoreError
from kinedge.units import NS_PER_S

__all__ = ["MAX_AGE_S", "Checkpoint", "CheckpointKeeper", "checkpoint_path", "read_checkpoint", "write_checkpoint"]

MAX_AGE_S: Final = 600.0
_MAGIC: Final = b"kinedge checkpoint 1\n"
_HEAD: Final = len(_MAGIC) + 65
_MAX_BYTES: Final = 1 << 30  # of ten thousand people


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The state of a pipeline at one moment.

    Parameters
    ----------
    origin
        Model, settings and boot it belongs to, in words.
    host_time_ns
        Monotonic, when it was taken.
    people
        Pseudonym and digest of the enrolment, if any, row by row.
    arrays
        From ``Pipeline.save``.
    """

    origin: dict[str, str]
    host_time_ns: int
    people: tuple[tuple[str, str | None], ...]
    arrays: dict[str, NDArray[Any]]

    def to_bytes(self) -> bytes:
        """Return the file."""
        head = {"origin": self.origin, "host_time_ns": self.host_time_ns, "people": self.people}
        body = io.BytesIO()
        # not compressed: it is written often, and noise does not shrink
        np.savez(body, allow_pickle=False, head=np.array(json.dumps(head)), **self.arrays)
        data = body.getvalue()
        return _MAGIC + sha256_hex(data).encode() + b"\n" + data

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> Checkpoint:
        """Read the file.

        Raises
        ------
        StoreError
            It is none, or damaged.
        """
        if not data.startswith(_MAGIC):
            raise StoreError(f"{where}: no checkpoint of this version")
        if sha256_hex(data[_HEAD:]).encode() + b"\n" != data[len(_MAGIC) : _HEAD]:
            raise StoreError(f"{where}: damaged: its SHA-256 is another")
        try:
            arrays = arrays_from_npz(data[_HEAD:], where=where, max_bytes=_MAX_BYTES)
            head = json.loads(str(arrays.pop("head")))
            people = tuple((str(s), None if digest is None else str(digest)) for s, digest in head["people"])
            return cls({str(k): str(v) for k, v in head["origin"].items()}, int(head["host_time_ns"]), people, arrays)
        except (BundleError, KeyError, TypeError, ValueError, AttributeError) as e:
            raise StoreError(f"{where}: not readable as a checkpoint ({e})") from e


def checkpoint_path(store: Path) -> Path:
    """Return where the checkpoint of the gateway with this store is kept: beside it."""
    return store.with_suffix(".checkpoint")


def read_checkpoint(path: Path) -> Checkpoint | None:
    """Read a checkpoint; None where there is no file.

    Raises
    ------
    StoreError
        The file is no checkpoint, damaged, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as e:
        raise StoreError(f"{path}: cannot be read: {e}") from e
    if len(data) > _MAX_BYTES:
        raise StoreError(f"{path}: larger than {_MAX_BYTES} bytes")
    return Checkpoint.from_bytes(data, where=str(path))


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Replace the file as a whole: at every moment there is the old one or the new one.

    Raises
    ------
    StoreError
        The disk refuses it.
    """
    part = path.with_name(path.name + ".part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(checkpoint.to_bytes())
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as e:
        raise StoreError(f"{path}: the checkpoint could not be written: {e}") from e


class CheckpointKeeper:
    """Keeps the state of one gateway.

    Parameters
    ----------
    path
        The file.
    settings
        Digest of the settings that decide what is said.
    every_s
        Between two checkpoints; a crash costs at most that much.
    now_ns
        The monotonic clock of the pipeline.
    note
        Told what is worth knowing, each thing once.
    """

    def __init__(
        self,
        path: Path,
        *,
        settings: str,
        every_s: float,
        now_ns: Callable[[], int],
        note: Callable[[str], None],
    ) -> None:
        self._path = path
        self._settings = settings
        self._every_s = every_s
        self._now_ns = now_ns
        self._note = note
        self._said = ""

    def restore(self, pipeline: Pipeline) -> tuple[str, ...]:
        """Let a pipeline go on from the checkpoint; returns who does, and says why somebody does not.

        A file that is no checkpoint, or damaged, is put aside beside it.
        """
        try:
            found = read_checkpoint(self._path)
            if found is None:
                return ()
            if why := self._why_not(found, pipeline):
                self._note(f"the checkpoint is not used: {why}; everybody warms up anew")
                return ()
            here = {s: i for i, s in enumerate(_people(pipeline))}
            rows = {old: here[who] for old, who in enumerate(found.people) if who in here}
            pipeline.load(found.arrays, rows)
        except (StoreError, SignalError) as e:
            aside = self._path.with_name(self._path.name + ".aside")
            try:
                self._path.replace(aside)
            except OSError:
                aside = self._path
            self._note(f"{e}; it was put aside as {aside.name}, and everybody warms up anew")
            return ()
        return tuple(found.people[old][0] for old in rows)

    async def run(self, pipeline: Callable[[], Pipeline]) -> None:
        """Keep the state every ``every_s``, without holding up the event loop for longer than a copy takes."""
        while True:
            await asyncio.sleep(self._every_s)
            taken = self._take(pipeline())
            await asyncio.to_thread(self._write, taken)

    def end(self, pipeline: Pipeline) -> None:
        """Keep the state at a graceful stop."""
        self._write(self._take(pipeline))

    def _take(self, pipeline: Pipeline) -> Checkpoint:
        return Checkpoint(self._origin(pipeline), self._now_ns(), _people(pipeline), pipeline.save())

    def _write(self, checkpoint: Checkpoint) -> None:
        try:
            write_checkpoint(self._path, checkpoint)
        except StoreError as e:
            if str(e) != self._said:
                self._note(str(e))
            self._said = str(e)
        else:
            self._said = ""

    def _origin(self, pipeline: Pipeline) -> dict[str, str]:
        scorer = pipeline.scorer
        return {"model": f"{scorer.bundle.digest} {scorer.precision}", "settings": self._settings, "boot": boot_id()}

    def _why_not(self, found: Checkpoint, pipeline: Pipeline) -> str:
        mine = self._origin(pipeline)
        words = {"model": "another model", "settings": "other settings", "boot": "another boot of this machine"}
        if odd := [words[k] for k in mine if found.origin.get(k) != mine[k]]:
            return f"it is of {' and '.join(odd)}"
        age_s = (self._now_ns() - found.host_time_ns) / NS_PER_S
        return "" if 0 <= age_s <= MAX_AGE_S else f"it is {age_s:.0f} s old, and {MAX_AGE_S:.0f} s is the limit"


def _people(pipeline: Pipeline) -> tuple[tuple[str, str | None], ...]:
    bases = pipeline.people.bases
    return tuple((s, b.enrolment_digest) for s, b in zip(pipeline.subjects, bases, strict=True))
