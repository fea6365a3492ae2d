"""Public data sets, as their owners publish them or as npz copies, and recordings of one's own.

| name | content | sensors | labels |
|---|---|---|---|
| ``fog_stanford`` | Parkinson, walks with freezing of gait; O'Day 2022 | 6 IMUs, in some walks 11 | ``freeze`` |
| ``gait_healthy`` | healthy walks; Voisard 2023 | lower back, both feet | ``walk``, ``turn`` |
| ``daphnet`` | Parkinson, freezing of gait; Bachlin 2010 | ankle, thigh, trunk: acc only | ``freeze``, ``outside`` |
| ``rehab_exercises`` | 8 physiotherapy exercises; Yurtman 2014 | 5 IMUs | ``exercise:right``, ``:fast``, ``:small`` |
| ``soccer`` | soccer actions; Akamatsu 2021 | 17 IMUs | ``action:<name>`` |

These are :class:`~kinedge.recording.Recording`; so are sessions that ``kinedge record`` wrote (:func:`load_session`)
and plain CSV files with units (:func:`load_csv`). ``arm_use`` (features of both wrists, :class:`ArmUse`) and ``smd``,
``tsb_ad_m`` (:class:`Series`) are something else and say so. A folder or a zip is read as the owner's, any other file
as npz. What is missing in a source stays missing: lost packets, blocks in which a sensor did not record and values
that are not finite become invalid samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from kinedge.errors import SignalError
from kinedge.recording import Recording
from kinedge.training.datasets.arm_use import ArmUse, load_arm_use
from kinedge.training.datasets.daphnet import load_daphnet
from kinedge.training.datasets.fog_stanford import load_fog_stanford
from kinedge.training.datasets.gait_healthy import load_gait_healthy
from kinedge.training.datasets.plain_csv import CsvConfig, load_csv
from kinedge.training.datasets.rehab_exercises import load_rehab_exercises
from kinedge.training.datasets.series import Cause, Series, load_smd, load_tsb_ad_m
from kinedge.training.datasets.sessions import load_session
from kinedge.training.datasets.soccer import load_soccer
from kinedge.training.datasets.source import regions_of

__all__ = [
    "DATASETS",
    "SERIES",
    "ArmUse",
    "Cause",
    "CsvConfig",
    "Series",
    "load_arm_use",
    "load_csv",
    "load_daphnet",
    "load_dataset",
    "load_fog_stanford",
    "load_gait_healthy",
    "load_rehab_exercises",
    "load_session",
    "load_smd",
    "load_soccer",
    "load_tsb_ad_m",
    "regions_of",
]

DATASETS: Final[Mapping[str, Callable[..., list[Recording]]]] = {
    "fog_stanford": load_fog_stanford,
    "gait_healthy": load_gait_healthy,
    "daphnet": load_daphnet,
    "rehab_exercises": load_rehab_exercises,
    "soccer": load_soccer,
}
SERIES: Final[Mapping[str, Callable[..., list[Series]]]] = {"smd": load_smd, "tsb_ad_m": load_tsb_ad_m}


def load_dataset(name: str, folder: Path, *, sensors: Sequence[str] | None = None) -> list[Recording]:
    """Load ``<folder>/<name>.npz``, or else the owner's ``<folder>/<name>/`` or ``<folder>/<name>.zip``.

    Raises
    ------
    SignalError
        The name is not in :data:`DATASETS`, or its loader refuses the file.
    """
    loader = DATASETS.get(name)
    if loader is None:
        raise SignalError(f"unknown data set {name!r}; known are {', '.join(DATASETS)}")
    npz = folder / f"{name}.npz"
    owners = next((p for p in (folder / name, folder / f"{name}.zip") if p.exists()), npz)
    return loader(npz if npz.exists() else owners, sensors=sensors)
