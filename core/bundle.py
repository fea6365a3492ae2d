"""The model bundle: one ``.kinedge`` file that holds all a board needs to score, and nothing it could run.

A zip, read without unpacking: ``manifest.json`` (what the model expects and promises), ``model.fp32.onnx``,
``calibration.npz`` (plain arrays) and ``card.md``; a graph and a calibration more for every other precision. Every
part is named in the manifest with its SHA-256; a part that is not named, too large, packed too tightly, or altered is
refused, and so is a graph with more than plain arithmetic in it (``kinedge.onnx_guard``). There is no pickle anywhere.
Signatures, if any, stand in the zip's comment (``kinedge.signing``): they are read here and judged by who uses it.
"""

from __future__ import annotations

import io
import re
import stat
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from numpy.typing import NDArray
from pydantic import Field, ValidationError, field_validator, model_validator

from kinedge.arrays import ZIP_EPOCH, arrays_from_npz
from kinedge.canonical import canonical_json, sha256_hex
from kinedge.config import Config, explain_validation_error
from kinedge.errors import BundleError, SignalError
from kinedge.onnx_guard import check_graph
from kinedge.signals import SensorSpec
from kinedge.signing import Signature, signatures_of

__all__ = [
    "BUNDLE_SCHEMA",
    "Bundle",
    "Manifest",
    "Part",
    "SensorEntry",
    "TensorEntry",
    "calibration_name",
    "pack_bundle",
    "read_bundle",
    "read_member",
    "write_bundle",
]

BUNDLE_SCHEMA: Final = 1
MANIFEST_NAME: Final = "manifest.json"
CALIBRATION_NAME: Final = "calibration.npz"
CARD_NAME: Final = "card.md"

_FULL_PRECISION: Final = "fp32"
_MAX_PARTS: Final = 16
_MAX_MANIFEST_BYTES: Final = 1 << 20
_MAX_PART_BYTES: Final = 64 << 20
_MAX_FILE_BYTES: Final = 256 << 20  # of the file, and of all parts together
_UNIX: Final = 3  # whose modes a zip's directory may hold
_ENCRYPTED: Final = 1
_PART_NAME = r"^[a-z0-9][a-z0-9_.-]{0,63}$"


class SensorEntry(Config):
    """A sensor the model expects, with its channels in column order (SI units)."""

    name: str
    channels: tuple[str, ...]

    def spec(self) -> SensorSpec:
        """Return it as the type the signal path uses."""
        return SensorSpec(self.name, self.channels)


class TensorEntry(Config):
    """A tensor of the exported graph; ``-1`` is the batch of streams or the number of samples."""

    name: str = Field(max_length=64)
    shape: tuple[int, ...] = Field(max_length=4)
    dtype: Literal["float32"] = "float32"


class Part(Config):
    """A member of the zip."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    n_bytes: int = Field(ge=0, le=_MAX_PART_BYTES)


class Manifest(Config):
    """What the model expects, how it is used, and what was measured of it."""

    schema_version: Literal[1] = BUNDLE_SCHEMA
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")
    created_utc: str = Field(max_length=40)
    kinedge_version: str = Field(max_length=64)
    intended_use: str = Field(min_length=1, max_length=4000)

    sensors: tuple[SensorEntry, ...] = Field(min_length=1, max_length=32)
    rate_hz: float = Field(ge=1, le=1000, description="of the common grid all sensors are brought to")
    horizons: tuple[int, ...] = Field(min_length=1, max_length=4, description="samples ahead")
    receptive_field: int = Field(ge=1, le=100_000, description="samples that one prediction looks back")
    hop: int = Field(ge=1, le=10_000, description="samples per verdict")
    block: int = Field(ge=1, le=10_000, description="samples a verdict looks back; a multiple of hop")
    center: tuple[float, ...]
    scale: tuple[float, ...]
    clip: float = Field(gt=0, description="of normalised input, in scales")
    hold_s: float = Field(
        default=0.0, ge=0, le=60, description="in which a value held through a gap fades to 37 %; 0: zeros are shown"
    )
    channel_dropout: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="how often a sensor lacked a channel in training; 0: one that lacks any is kept from the model",
    )
    student_t_nu: tuple[tuple[float, ...], ...] = Field(description="per horizon, per channel")

    inputs: tuple[TensorEntry, ...]
    outputs: tuple[TensorEntry, ...]
    state_size: int = Field(ge=1, le=1_000_000, description="floats of state per stream")
    precisions: dict[str, str] = Field(description="precision -> part")
    parts: dict[str, Part]

    n_parameters: int = Field(ge=0)
    training: dict[str, str | int | float] = Field(default_factory=dict, description="data, digest, seed, command")
    quality: dict[str, str | int | float] = Field(default_factory=dict, description="measured, on held-out data")

    @field_validator("parts")
    @classmethod
    def _part_names(cls, parts: dict[str, Part]) -> dict[str, Part]:
        if sum(part.n_bytes for part in parts.values()) > _MAX_FILE_BYTES:
            raise ValueError(f"the parts together are larger than {_MAX_FILE_BYTES} bytes")
        for name in parts:
            if not re.fullmatch(_PART_NAME, name) or name == MANIFEST_NAME:
                raise ValueError(f"part name {name!r} is not allowed")
        return parts

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        try:
            specs = self.sensor_specs
        except SignalError as e:
            raise ValueError(str(e)) from e
        if len({s.name for s in specs}) != len(specs):
            raise ValueError("a sensor stands twice")
        n = self.n_channels
        if len(self.center) != n or len(self.scale) != n:
            raise ValueError(f"center and scale must have {n} values, one per channel")
        if min(self.scale) <= 0:
            raise ValueError("every scale must be positive")
        if any(h < 1 or h > 1000 for h in self.horizons) or list(self.horizons) != sorted(set(self.horizons)):
            raise ValueError("horizons must be increasing, 1 to 1000 samples")
        if len(self.student_t_nu) != len(self.horizons) or any(len(row) != n for row in self.student_t_nu):
            raise ValueError("student_t_nu must have one row per horizon and one value per channel")
        if min(min(row) for row in self.student_t_nu) <= 2:
            raise ValueError("student_t_nu must be above 2 (finite variance)")
        if self.block % self.hop:
            raise ValueError("block must be a multiple of hop")
        if "fp32" not in self.precisions:
            raise ValueError("precisions must name an fp32 part")
        for name in (*self.precisions.values(), CALIBRATION_NAME):
            if name not in self.parts:
                raise ValueError(f"part {name!r} is used but not listed")
        return self

    @property
    def sensor_specs(self) -> tuple[SensorSpec, ...]:
        """The sensors as the signal path knows them."""
        return tuple(s.spec() for s in self.sensors)

    @property
    def n_channels(self) -> int:
        """Channels of all sensors together."""
        return sum(len(s.channels) for s in self.sensors)


@dataclass(frozen=True, eq=False)
class Bundle:
    """A bundle in memory, every part checked against the manifest.

    ``digest`` is the SHA-256 of the manifest, which carries the digest of every part: it names the whole, and is what
    ``signatures`` are over. They were read, not judged: see ``kinedge.signing.Trust``.
    """

    manifest: Manifest
    parts: Mapping[str, bytes]
    digest: str
    signatures: tuple[Signature, ...] = ()

    def model_bytes(self, precision: str = _FULL_PRECISION) -> bytes:
        """Return the ONNX graph of one precision.

        Raises
        ------
        BundleError
            The bundle has no such precision.
        """
        name = self.manifest.precisions.get(precision)
        if name is None:
            have = ", ".join(sorted(self.manifest.precisions))
            raise BundleError(f"bundle {self.manifest.name} has no {precision!r} model; it has {have}")
        return self.parts[name]

    def calibration_arrays(self, precision: str = _FULL_PRECISION) -> dict[str, NDArray[Any]]:
        """Return the arrays of the calibration that was fitted on the scores of this precision.

        Raises
        ------
        BundleError
            The bundle has none: what another precision would promise does not hold for this one.
        """
        name = calibration_name(precision)
        if name not in self.parts:
            raise BundleError(
                f"bundle {self.manifest.name} has no {name}: its {precision} scores were never calibrated; "
                f"make the bundle again with kinedge quantize"
            )
        return arrays_from_npz(self.parts[name], where=f"{self.manifest.name}/{name}")


def calibration_name(precision: str) -> str:
    """Return the part that calibrates one precision."""
    return CALIBRATION_NAME if precision == _FULL_PRECISION else f"calibration.{precision}.npz"


def pack_bundle(manifest_fields: Mapping[str, object], parts: Mapping[str, bytes]) -> bytes:
    """Return the bytes of a bundle; ``parts`` of the manifest is filled in here.

    Raises
    ------
    BundleError
        The manifest does not fit.
    """
    entries = {name: {"sha256": sha256_hex(data), "n_bytes": len(data)} for name, data in parts.items()}
    try:
        manifest = Manifest.model_validate({**manifest_fields, "parts": entries})
    except ValidationError as e:
        raise BundleError(explain_validation_error(e, Manifest, "manifest")) from e
    body = canonical_json(manifest.model_dump(mode="json"))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in [(MANIFEST_NAME, body), *sorted(parts.items())]:
            archive.writestr(zipfile.ZipInfo(name, ZIP_EPOCH), data, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def write_bundle(path: Path, data: bytes) -> None:
    """Write the bytes of a bundle beside their place and rename: a crash leaves the old file or the new one.

    Raises
    ------
    BundleError
        The place cannot be written.
    """
    beside = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(data)
        beside.replace(path)
    except OSError as e:
        raise BundleError(f"{path}: cannot be written ({e.strerror})") from e


def read_bundle(source: Path | bytes) -> Bundle:
    """Read a bundle, check every part against its digest, and every graph for what is in it.

    Raises
    ------
    BundleError
        The file is missing, no bundle, damaged, oversized, of another schema version, or altered; or one of its graphs
        is not plain, or not of the manifest's shapes.
    """
    where = "bundle" if isinstance(source, bytes) else str(source)
    try:
        n_bytes = len(source) if isinstance(source, bytes) else source.stat().st_size
        if n_bytes > _MAX_FILE_BYTES:
            raise BundleError(f"{where}: {n_bytes} bytes; a bundle has at most {_MAX_FILE_BYTES}")
        data = source if isinstance(source, bytes) else source.read_bytes()
    except OSError as e:
        raise BundleError(f"{where}: cannot be read ({e.strerror})") from e
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _read_members(archive, where)
    except BundleError:
        raise
    except Exception as e:
        raise BundleError(f"{where}: no readable bundle ({type(e).__name__}: {e})") from e


def _read_members(archive: zipfile.ZipFile, where: str) -> Bundle:
    infos = archive.infolist()
    names = [i.filename for i in infos]
    if len(names) > _MAX_PARTS or len({n.casefold() for n in names}) != len(names):
        raise BundleError(f"{where}: {len(names)} members; a bundle has at most {_MAX_PARTS}, each once")
    for info in infos:
        kind = info.external_attr >> 16 if info.create_system == _UNIX else 0
        if stat.S_IFMT(kind) not in {0, stat.S_IFREG} or info.flag_bits & _ENCRYPTED or info.is_dir():
            raise BundleError(f"{where}: {info.filename!r} is a link, a folder or encrypted; get the file again")
        if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise BundleError(f"{where}: {info.filename!r} is packed in way {info.compress_type}; deflate is read here")
    if MANIFEST_NAME not in names:
        raise BundleError(f"{where}: no {MANIFEST_NAME}; this is no kinedge bundle")
    signatures = signatures_of(archive, where=where)
    body = read_member(archive, MANIFEST_NAME, _MAX_MANIFEST_BYTES, where)
    try:
        manifest = Manifest.model_validate_json(body)
    except ValidationError as e:
        raise BundleError(explain_validation_error(e, Manifest, f"{where}/{MANIFEST_NAME}")) from e
    extra = sorted(set(names) - set(manifest.parts) - {MANIFEST_NAME})
    if extra:
        raise BundleError(f"{where}: {', '.join(extra)} not listed in the manifest")
    parts = {}
    for name, part in manifest.parts.items():
        content = read_member(archive, name, part.n_bytes, where)
        if len(content) != part.n_bytes or sha256_hex(content) != part.sha256:
            raise BundleError(f"{where}: {name} does not have the digest the manifest names; it was altered or damaged")
        parts[name] = content
    for name in set(manifest.precisions.values()):
        _check_graph(parts[name], manifest, where=f"{where}/{name}")
    return Bundle(manifest=manifest, parts=parts, digest=sha256_hex(body), signatures=signatures)


def _check_graph(graph: bytes, manifest: Manifest, *, where: str) -> None:
    n, s = manifest.n_channels, manifest.state_size
    predicted = (-1, -1, n * len(manifest.horizons))
    check_graph(
        graph,
        inputs={"x": (-1, -1, n), "mask": (-1, -1, n), "state": (-1, s)},
        outputs={"mu": predicted, "log_sigma": predicted, "state_out": (-1, s)},
        hop=manifest.hop,
        where=where,
    )


def read_member(archive: zipfile.ZipFile, name: str, limit: int, where: str) -> bytes:
    """Read at most ``limit`` bytes of a member, whatever the zip's directory claims.

    Raises
    ------
    BundleError
        It is missing, or larger.
    """
    try:
        with archive.open(name) as member:
            data = member.read(limit + 1)
    except KeyError as e:
        raise BundleError(f"{where}: {name} is listed but missing") from e
    if len(data) > limit:
        raise BundleError(f"{where}: {name} is larger than the {limit} bytes allowed")
    return data
