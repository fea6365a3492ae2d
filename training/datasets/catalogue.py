"""Where the data sets come from, and under which terms: what ``kinedge data`` lists and fetches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["CATALOGUE", "Entry"]


@dataclass(frozen=True)
class Entry:
    """A public data set.

    Parameters
    ----------
    licence
        As its owner states it.
    page
        Where its owner describes it.
    url
        The archive, where the licence lets anybody fetch it without a question; None otherwise.
    why_not
        Why there is no ``url``, and what to do.
    keep
        Regular expression (search) of the archive's members that are data; the rest is not unpacked.
    """

    name: str
    title: str
    licence: str
    page: str
    citation: str
    url: str | None = None
    why_not: str = ""
    keep: str = "."


_ENTRIES: Final = (
    Entry(
        "daphnet",
        "Parkinson, freezing of gait; ankle, thigh, trunk accelerometers",
        "CC BY 4.0",
        "https://archive.ics.uci.edu/dataset/245/daphnet+freezing+of+gait",
        "Bächlin et al. 2010, IEEE Trans. Inf. Technol. Biomed. 14(2):436-446, doi:10.1109/TITB.2009.2036165",
        url="https://archive.ics.uci.edu/static/public/245/daphnet+freezing+of+gait.zip",
    ),
    Entry(
        "rehab_exercises",
        "eight physiotherapy exercises, right, too fast and too small; five IMUs",
        "CC BY 4.0",
        "https://archive.ics.uci.edu/dataset/730/physical+therapy+exercises+dataset",
        "Yurtman & Barshan 2014, Comput. Methods Programs Biomed. 117(2):189-207, doi:10.1016/j.cmpb.2014.07.003",
        url="https://archive.ics.uci.edu/static/public/730/physical+therapy+exercises+dataset.zip",
    ),
    Entry(
        "fog_stanford",
        "Parkinson, walks with freezing of gait; 6 or 11 IMUs",
        "BSD-3-Clause",
        "https://github.com/stanfordnmbl/imu-fog-detection",
        "O'Day et al. 2022, J. NeuroEng. Rehabil. 19:20, doi:10.1186/s12984-022-00992-x",
        url="https://github.com/stanfordnmbl/imu-fog-detection/archive/HEAD.zip",
        keep=r"/data/raw/|/LICENSE|/README",
    ),
    Entry(
        "soccer",
        "soccer actions of experts and novices; 17 IMUs",
        "MIT",
        "https://github.com/LMD-datasets/Expert-NoviceSoccerDataset",
        "Akamatsu et al. 2021, IEEE ICASSP",
        url="https://github.com/LMD-datasets/Expert-NoviceSoccerDataset/archive/HEAD.zip",
        keep=r"/MotionData/|/LICENSE|/README",
    ),
    Entry(
        "smd",
        "server metrics with labelled root causes (no sensors on a body)",
        "MIT",
        "https://github.com/NetManAIOps/OmniAnomaly",
        "Su et al. 2019, KDD, doi:10.1145/3292500.3330672",
        url="https://github.com/NetManAIOps/OmniAnomaly/archive/HEAD.zip",
        keep=r"/ServerMachineDataset/|/LICENSE|/README",
    ),
    Entry(
        "gait_healthy",
        "healthy walks with real radio loss; lower back and both feet",
        "AGPL-3.0 in its repository",
        "https://github.com/CyrilVoisard/ipol_dataset_1",
        "Voisard et al. 2023, Image Processing On Line (dataset 1)",
        why_not="a licence for programs over data leaves open what may be done with it: read it, fetch the folder "
        "GaitData yourself, and give that folder",
    ),
    Entry(
        "arm_use",
        "functional arm use of both wrists, labelled from video; healthy and after stroke",
        "none stated",
        "https://github.com/biorehab/upper-limb-use-assessment",
        "David et al. 2021, Front. Physiol. 12:700200; Subash et al. 2022, J. NeuroEng. Rehabil.",
        why_not="without a licence nobody but its owner may copy it: ask the owner",
    ),
    Entry(
        "tsb_ad_m",
        "TSB-AD-M, multivariate series of 17 sources (few of them sensors on a body)",
        "Apache-2.0 for the collection, each source its own",
        "https://github.com/TheDatumOrg/TSB-AD",
        "Liu & Paparrizos 2024, NeurIPS Datasets and Benchmarks",
        why_not="the sources have terms of their own, and some forbid to hand them on: see the page for the archive "
        "TSB-AD-M.zip and give the unpacked folder or the zip",
    ),
)

CATALOGUE: Final[Mapping[str, Entry]] = {entry.name: entry for entry in _ENTRIES}
