"""Plain arrays as bytes: npz that depends on its content alone, read without pickle and within a budget."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import BundleError

__all__ = ["ZIP_EPOCH", "arrays_from_npz", "arrays_to_npz"]

ZIP_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # no clock in the file: the same content gives the same bytes
_MAX_ARRAY_BYTES: Final = 64 << 20
_MAX_ARRAYS: Final = 256


def arrays_to_npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Pack plain arrays as npz bytes that depend on their content alone."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(arrays):
            member = io.BytesIO()
            np.lib.format.write_array(member, np.asarray(arrays[name], order="C"), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", ZIP_EPOCH), member.getvalue(), zipfile.ZIP_DEFLATED)
    return out.getvalue()


def arrays_from_npz(data: bytes, *, where: str, max_bytes: int = _MAX_ARRAY_BYTES) -> dict[str, NDArray[Any]]:
    """Read npz bytes; objects (pickle) and more than ``max_bytes`` of arrays are refused.

    Raises
    ------
    BundleError
        The bytes are no npz of plain arrays, or too large.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            if len(infos) > _MAX_ARRAYS or sum(i.file_size for i in infos) > max_bytes:
                raise BundleError(f"{where}: arrays larger than {max_bytes} bytes")
            arrays: dict[str, NDArray[Any]] = {}
            for info in infos:
                raw = archive.read(info)
                _check_size(raw, f"{where}: {info.filename}")
                array = np.lib.format.read_array(io.BytesIO(raw), allow_pickle=False)
                if array.dtype.kind not in "biufU" or (array.dtype.kind == "f" and not np.isfinite(array).all()):
                    raise BundleError(f"{where}: {info.filename} holds NaN, infinity or no plain numbers")
                arrays[info.filename.removesuffix(".npy")] = array
            return arrays
    except BundleError:
        raise
    except Exception as e:
        raise BundleError(f"{where}: not readable as plain arrays ({type(e).__name__}: {e})") from e


def _check_size(raw: bytes, where: str) -> None:
    """Refuse an array whose header claims another size than it has: numpy would reserve what is claimed."""
    file = io.BytesIO(raw)
    version = np.lib.format.read_magic(file)
    if version not in {(1, 0), (2, 0)}:
        raise BundleError(f"{where} is an array file of version {version}; 1.0 and 2.0 are read here")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if math.prod(shape) * dtype.itemsize != len(raw) - file.tell() and not dtype.hasobject:
        raise BundleError(
            f"{where} claims {shape} {dtype} and holds {len(raw) - file.tell()} bytes; get the file again"
        )
