"""The enrolment of one person: what is usual for them, with one model in one precision and their own sensors.

A zip like the bundle, read without unpacking: ``enrolment.json`` (whose it is, for which bundle, from when and how
long, what the audit said) and ``baseline.npz`` (plain arrays), whose digest stands in the former. The SHA-256 of
``enrolment.json`` names the file, and is what a signature is over (``kinedge.signing``).
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from kinedge.arrays import ZIP_EPOCH, arrays_from_npz, arrays_to_npz
from kinedge.bundle import Part, SensorEntry, read_member
from kinedge.canonical import canonical_json, sha256_hex
from kinedge.config import Config, explain_validation_error
from kinedge.edge.calibration import MAX_REFERENCE
from kinedge.edge.enrolment_audit import Audit
from kinedge.edge.orientation import Frames
from kinedge.edge.personal import Baseline
from kinedge.edge.pose import POSES, PoseFrames
from kinedge.errors import BundleError
from kinedge.signing import Signature, signatures_of

__all__ = ["Enrolment", "EnrolmentManifest", "pack_enrolment", "read_enrolment"]

MANIFEST_NAME: Final = "enrolment.json"
BASELINE_NAME: Final = "baseline.npz"

_MAX_FILE_BYTES: Final = 16 << 20
_MAX_MANIFEST_BYTES: Final = 1 << 20
_MAX_BASELINE_BYTES: Final = 4 << 20
_MAX_CONTEXTS: Final = 16
_FRAMES: Final = "frames_"
_POSES: Final = "poses_"
_LINES: Final = ("mix", "levels", "low", "middle", "high")


class EnrolmentManifest(Config):
    """Whose enrolment this is, and how it came about."""

    schema_version: Literal["kinedge.enrolment/1"] = "kinedge.enrolment/1"
    subject: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}$", description="a pseudonym; never a name")
    bundle_digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    bundle_name: str = Field(max_length=64)
    precision: str = Field(default="fp32", pattern=r"^[a-z0-9]{1,16}$", description="of the model that scored")
    kinedge_version: str = Field(max_length=64)
    enrolled_utc: str = Field(max_length=40)
    source: str = Field(max_length=400, description="where the movement came from")
    sensors: tuple[SensorEntry, ...] = Field(min_length=1, max_length=32)
    placement: dict[str, str] = Field(default_factory=dict, max_length=32, description="sensor -> device, as known")
    recorded_s: float = Field(ge=0)
    usable_s: float = Field(ge=0)
    walking_s: float = Field(ge=0, description="from which it was learned how the sensors sit")
    poses: tuple[str, ...] = Field(default=(), max_length=8, description="guided poses that were recorded with it")
    n_blocks: int = Field(ge=0)
    n_trimmed: int = Field(ge=0, description="left out as abnormal")
    short: bool = Field(default=False, description="less than half an hour; the spread leans on the cohort's")
    feedback: dict[str, Literal["dismissed", "confirmed"]] = Field(
        default_factory=dict, max_length=4096, description="episodes whose answers it was made with, by id"
    )
    audit: Audit
    parts: dict[str, Part]


@dataclass(frozen=True, eq=False)
class Enrolment:
    """An enrolment in memory, checked. ``signatures`` were read, not judged: see ``kinedge.signing.Trust``.

    ``poses`` is None where no guided poses were recorded with it, as in every file of before there were any.
    """

    manifest: EnrolmentManifest
    baseline: Baseline
    frames: Frames
    digest: str
    signatures: tuple[Signature, ...] = ()
    poses: PoseFrames | None = None


def pack_enrolment(
    manifest_fields: Mapping[str, object], baseline: Baseline, frames: Frames, poses: PoseFrames | None = None
) -> bytes:
    """Return the bytes of an enrolment; ``parts`` and ``poses`` of the manifest are filled in here.

    Raises
    ------
    BundleError
        The manifest does not fit.
    """
    arrays: dict[str, NDArray[Any]] = {f.name: getattr(baseline, f.name) for f in fields(Baseline)}
    arrays |= {_FRAMES + f.name: getattr(frames, f.name) for f in fields(Frames)}
    if poses is not None:
        # a pose that was not held is written as how often it was: an infinite error would be no plain number
        arrays |= {_POSES + "gravity": poses.gravity, _POSES + "n_held": poses.n_held}
        arrays[_POSES + "error_rad"] = np.where(poses.n_held > 0, poses.error_rad, np.pi)
    data = arrays_to_npz(arrays)
    part = {"sha256": sha256_hex(data), "n_bytes": len(data)}
    try:
        manifest = EnrolmentManifest.model_validate(
            {**manifest_fields, "poses": () if poses is None else POSES, "parts": {BASELINE_NAME: part}}
        )
    except ValidationError as e:
        raise BundleError(explain_validation_error(e, EnrolmentManifest, "enrolment")) from e
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in ((MANIFEST_NAME, canonical_json(manifest.model_dump(mode="json"))), (BASELINE_NAME, data)):
            archive.writestr(zipfile.ZipInfo(name, ZIP_EPOCH), content, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def read_enrolment(source: Path | bytes) -> Enrolment:
    """Read an enrolment and check it against its digests.

    Raises
    ------
    BundleError
        It is missing, none, damaged, oversized, of another schema version, or altered.
    """
    where = "enrolment" if isinstance(source, bytes) else str(source)
    try:
        if isinstance(source, Path) and source.stat().st_size > _MAX_FILE_BYTES:
            raise BundleError(f"{where}: larger than {_MAX_FILE_BYTES} bytes; this is no enrolment")
        data = source if isinstance(source, bytes) else source.read_bytes()
    except OSError as e:
        raise BundleError(f"{where}: cannot be read ({e.strerror})") from e
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _read_members(archive, where)
    except BundleError:
        raise
    except Exception as e:
        raise BundleError(f"{where}: no readable enrolment ({type(e).__name__}: {e})") from e


def _read_members(archive: zipfile.ZipFile, where: str) -> Enrolment:
    names = sorted(i.filename for i in archive.infolist())
    if names != sorted([MANIFEST_NAME, BASELINE_NAME]):
        raise BundleError(f"{where}: this is no enrolment: {MANIFEST_NAME} and {BASELINE_NAME} are in one, once each")
    signatures = signatures_of(archive, where=where)
    body = read_member(archive, MANIFEST_NAME, _MAX_MANIFEST_BYTES, where)
    try:
        manifest = EnrolmentManifest.model_validate_json(body)
    except ValidationError as e:
        raise BundleError(explain_validation_error(e, EnrolmentManifest, f"{where}/{MANIFEST_NAME}")) from e
    data = read_member(archive, BASELINE_NAME, _MAX_BASELINE_BYTES, where)
    part = manifest.parts.get(BASELINE_NAME)
    if part is None or len(data) != part.n_bytes or sha256_hex(data) != part.sha256:
        raise BundleError(f"{where}: {BASELINE_NAME} does not have the digest named; it was altered or damaged")
    if manifest.poses not in ((), POSES):
        raise BundleError(f"{where}: poses of another version: {', '.join(manifest.poses)}; enrol again")
    arrays = arrays_from_npz(data, where=where)
    own = {name: arrays.pop(name) for name in list(arrays) if name.startswith(_POSES)}
    baseline, frames = _from_arrays(arrays, manifest.sensors, where)
    poses = _poses_from(own, len(manifest.poses), len(manifest.sensors), where)
    return Enrolment(manifest, baseline, frames, sha256_hex(body), signatures, poses)


def _poses_from(arrays: Mapping[str, NDArray[Any]], p: int, s: int, where: str) -> PoseFrames | None:
    shapes = {"gravity": (p, s, 3), "error_rad": (p, s), "n_held": (p, s)} if p else {}
    if set(arrays) != {_POSES + name for name in shapes}:
        raise BundleError(f"{where}: the arrays of the poses do not fit what the manifest names")
    if not p:
        return None
    for name, shape in shapes.items():
        array = arrays[_POSES + name]
        if array.shape != shape or array.dtype.kind != "f":
            raise BundleError(f"{where}: {_POSES}{name} is {array.dtype} {array.shape}, expected float {shape}")
    gravity, error, n_held = (arrays[_POSES + name].astype(np.float64) for name in shapes)
    held = n_held > 0
    unit = np.isclose(np.linalg.norm(gravity[held], axis=-1), 1, atol=1e-6).all()
    if not (unit and (error > 0).all() and (n_held >= 0).all()):
        raise BundleError(f"{where}: poses need positive errors and unit vectors")
    return PoseFrames(gravity, np.where(held, error, np.inf), n_held)


def _from_arrays(
    arrays: Mapping[str, NDArray[Any]], sensors: tuple[SensorEntry, ...], where: str
) -> tuple[Baseline, Frames]:
    s, c = len(sensors), sum(len(sensor.channels) for sensor in sensors)
    n_levels = len(arrays["levels"]) if "levels" in arrays and arrays["levels"].ndim else 0
    if not set(arrays) & set(_LINES):  # as of before they were learned
        arrays = {**arrays, "mix": np.zeros((s, s + 1)), **{name: np.zeros((0, s)) for name in _LINES[1:]}}
    d = c + 2 * s + 1 + (s if n_levels else 0)
    k = len(arrays["knots"]) if "knots" in arrays and arrays["knots"].ndim else 0
    shapes = {
        "knots": (k, s + 1),
        "median": (k, d),
        "q95": (k, d),
        "q99": (k, d),
        "precision": (c, c),
        "n_blocks": (1,),
        "n_trimmed": (1,),
        "reference": (arrays["reference"].size if "reference" in arrays else 0,),
        "mix": (s, s + 1),
        **{name: (n_levels, s) for name in _LINES[1:]},
        _FRAMES + "gravity": (s, 3),
        _FRAMES + "axis": (s, 3),
        _FRAMES + "cross": (s, 3, 3),
        _FRAMES + "error_rad": (s, 2),
        _FRAMES + "anisotropy": (s,),
        _FRAMES + "walking_s": (s,),
    }
    if set(arrays) != set(shapes):
        raise BundleError(f"{where}: arrays missing or unused: {', '.join(sorted(set(arrays) ^ set(shapes)))}")
    for name, shape in shapes.items():
        if arrays[name].shape != shape or arrays[name].dtype.kind != "f":
            raise BundleError(f"{where}: {name} is {arrays[name].dtype} {arrays[name].shape}, expected float {shape}")
    plain = {name: array.astype(np.float64) for name, array in arrays.items()}
    baseline = Baseline(**{f.name: plain[f.name] for f in fields(Baseline)})
    frames = Frames(**{f.name: plain[_FRAMES + f.name] for f in fields(Frames)})
    if not 2 <= k <= _MAX_CONTEXTS or (np.diff(baseline.knots, axis=0) <= 0).any():
        raise BundleError(f"{where}: the contexts need increasing intensities, 2 to {_MAX_CONTEXTS} of them")
    if min((baseline.q99 - baseline.median).min(), np.diag(baseline.precision).min(), frames.error_rad.min()) <= 0:
        raise BundleError(f"{where}: spreads, precisions and errors must be positive")
    if baseline.lines is not None:
        baseline.lines.refuse_if_unfit(where=where)
    if n_levels > _MAX_CONTEXTS:
        raise BundleError(f"{where}: {n_levels} levels of coordination; at most {_MAX_CONTEXTS} can be")
    if (np.diff(baseline.reference) < 0).any() or len(baseline.reference) > MAX_REFERENCE:
        raise BundleError(f"{where}: the reference must be sorted, and have at most {MAX_REFERENCE} values")
    for vectors in (frames.gravity, frames.axis):
        if np.abs(np.linalg.norm(vectors, axis=1) - 1).max() > 1e-6:
            raise BundleError(f"{where}: directions must be unit vectors")
    return baseline, frames
