"""The enrolments of a board's people as they are kept in memory: in a tenth of what they take as objects.

As an object an enrolment takes 20 kB of small things, most of them the numbers of its audit; beside a person's 50 kB
that is much for what is looked at when an alarm is set, a session begins or somebody opens a page. So its manifest is
kept as compressed text (what the first says, those of others share), and its numbers in one row.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.orientation import Frames
from kinedge.edge.personal import Baseline
from kinedge.edge.pose import PoseFrames

if TYPE_CHECKING:
    from kinedge.edge.enrolment import Enrolment
    from kinedge.signing import Signature

__all__ = ["KeptEnrolments"]

F64 = NDArray[np.float64]
_Layout = tuple[tuple[type, tuple[tuple[str, tuple[int, ...]], ...]], ...]

_LEVEL: Final = 1  # of compression: with the first one's words at hand, more gains little


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    """One enrolment: its digest and signatures, its manifest, and its arrays one behind the other."""

    digest: str
    signatures: tuple[Signature, ...]
    manifest: bytes
    layout: _Layout
    numbers: bytes


class KeptEnrolments(Mapping[str, "Enrolment"]):
    """Enrolments by subject; whoever asks for one gets it anew, equal to what was kept.

    Parameters
    ----------
    own_reference
        Whether a baseline's ``reference`` is kept. A model whose cohort was enrolled ranks everybody among that, and
        never looks at it.
    """

    def __init__(self, *, own_reference: bool = True) -> None:
        self.own_reference = own_reference
        self._kept: dict[str, _Kept] = {}
        self._words = b""
        self._layouts: dict[_Layout, _Layout] = {}

    def keep(self, subject: str, enrolment: Enrolment) -> None:
        """Keep an enrolment."""
        text = enrolment.manifest.model_dump_json().encode()
        self._words = self._words or text
        packer = zlib.compressobj(_LEVEL, zdict=self._words)
        layout, numbers = [], []
        for part in (enrolment.baseline, enrolment.frames, enrolment.poses):
            arrays: dict[str, F64] = {} if part is None else {f.name: getattr(part, f.name) for f in fields(part)}
            if isinstance(part, Baseline) and not self.own_reference:
                arrays["reference"] = np.zeros(0)
            if part is not None:
                layout.append((type(part), tuple((name, array.shape) for name, array in arrays.items())))
                numbers += [np.asarray(array, np.float64).tobytes() for array in arrays.values()]
        same = self._layouts.setdefault(tuple(layout), tuple(layout))
        self._kept[subject] = _Kept(
            enrolment.digest, enrolment.signatures, packer.compress(text) + packer.flush(), same, b"".join(numbers)
        )

    def only(self, subjects: Collection[str]) -> KeptEnrolments:
        """Return those of some people, to which others can be added; nothing is unpacked."""
        some = KeptEnrolments(own_reference=self.own_reference)
        some._kept = {s: kept for s, kept in self._kept.items() if s in subjects}
        some._words, some._layouts = self._words, self._layouts
        return some

    def __getitem__(self, subject: str) -> Enrolment:
        kept = self._kept[subject]
        from kinedge.edge.enrolment import Enrolment, EnrolmentManifest  # whoever kept one has loaded it

        text = zlib.decompressobj(zdict=self._words).decompress(kept.manifest)
        manifest = EnrolmentManifest.model_validate_json(text)
        parts = _parts(kept)
        return Enrolment(manifest, parts[Baseline], parts[Frames], kept.digest, kept.signatures, parts.get(PoseFrames))

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, subject: object) -> bool:
        return subject in self._kept

    def digest(self, subject: str) -> str | None:
        """Return the digest of somebody's enrolment, None without one; much cheaper than all of it."""
        return self._kept[subject].digest if subject in self._kept else None

    def frames(self, subject: str) -> Frames:
        """Return how somebody's sensors sat when they enrolled.

        Raises
        ------
        KeyError
            There is no enrolment of theirs.
        """
        found: Frames = _parts(self._kept[subject])[Frames]
        return found

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept of everybody."""
        return len(self._words) + sum(len(k.manifest) + len(k.numbers) for k in self._kept.values())


def _parts(kept: _Kept) -> dict[type, Any]:
    numbers, at, parts = np.frombuffer(kept.numbers), 0, {}
    for part, arrays in kept.layout:
        found = {}
        for name, shape in arrays:
            n = math.prod(shape)
            found[name] = numbers[at : at + n].reshape(shape)
            at += n
        parts[part] = part(**found)
    return parts
