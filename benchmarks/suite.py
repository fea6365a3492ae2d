"""All benchmarks behind the results: how each is called, what data it needs, and its quick form for correctness.

The quick form measures nothing worth reading: it shows, in well under a minute of a processor, that benchmarks still
run from the command line to a result. Those without one need minutes for anything at all; small forms of them are in
tests of their own.
Some train models first, each without the people it watches (``kinedge.benchmarks.left_out``), and keep them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kinedge import __version__
from kinedge.benchmarks.machine import source_commit
from kinedge.benchmarks.results import read_result
from kinedge.errors import ConfigError

__all__ = ["SUITE", "Entry", "chosen", "command_of", "is_done", "with_data"]


@dataclass(frozen=True)
class Entry:
    """One result.

    Parameters
    ----------
    name
        Of the file, without the ending.
    command
        Arguments of ``kinedge bench``; ``{data}`` is the folder of data sets.
    quick
        In the quick form; empty where there is none.
    minutes
        It takes on two idle cores, roughly.
    files
        It needs of the folder of data sets.
    """

    name: str
    command: str
    quick: str
    minutes: float
    files: tuple[str, ...] = ()


SUITE: Final = (
    Entry("step", "step --streams 1,64,256 --rounds 9", "step --streams 2 --chunks 50 --rounds 3 --round-s 0.001", 1.0),
    Entry(
        "step_enrolled",
        "step --enrolled --streams 256 --rounds 9",
        "step --enrolled --streams 2 --chunks 50 --rounds 3 --round-s 0.001",
        2.0,
    ),
    Entry(
        "stages",
        "stages --people 16 --seconds 60 --live-seconds 30 --backends native,onnx",
        "stages --people 1 --seconds 12 --live-seconds 0",
        1.5,
    ),
    Entry(
        "throughput",
        "throughput --people 1000,4000 --seconds 2 --chunk 25 --memory-people 400",
        "throughput --people 6 --parameters 3000 --chunk 25 --seconds 1 --memory-people 4 --starts 0",
        1.5,
    ),
    Entry(
        "throughput_18",
        "throughput --people 300,600 --sensors 3 --rate-hz 100 --chunk 10 --seconds 4 --memory-people 100",
        "",
        1.0,
    ),
    Entry(
        "throughput_enrolled",
        "throughput --enrolled --people 1000,4000 --seconds 4 --chunk 25 --memory-people 400",
        "throughput --enrolled --people 6 --parameters 3000 --chunk 25 --seconds 2 --memory-people 4 --starts 0",
        5.0,
    ),
    Entry("decode", "decode", "decode", 0.2),
    Entry("links", "links", "links --sensors 2 --rate 50 --seconds 2", 0.5),
    Entry(
        "collector",
        "collector --rounds 5 --episodes 300",
        "collector --databases sqlite --episodes 24 --rounds 2 --connections 4",
        1.0,
    ),
    Entry("endurance", "endurance --minutes 30 --seed 0", "endurance --minutes 0.05 --devices 1 --speed 5", 30.5),
    Entry("endurance_steady", "endurance --minutes 2 --seed 2 --speed 5 --no-restarts", "", 2.5),
    Entry("clock", "clock", "", 1.5),
    Entry("clap", "clap", "clap --trials 10", 1.5),
    Entry("gpu_check", "gpu", "", 3.0),
    Entry("anomalies", "anomalies", "anomalies --subjects 1 --minutes 1", 1.0),
    Entry("enrolment", "enrolment", "", 3.0),
    Entry("enrolment_25deg", "enrolment --donning-deg 25", "", 3.0),
    Entry("alarms", "alarms --subjects 24", "", 8.0),
    Entry("ablations", "ablations --seeds 2", "", 10.0),
    Entry("dashboard", "dashboard --people 20 --listeners 2 --rounds 6 --turn-s 12", "", 4.0),
    Entry("fleet", "fleet --people 24", "", 4.0),
    Entry(
        "caution",
        "caution --subjects 48 --tuning 6 --enrolled --gait {data}/gait_healthy.npz --stanford {data}/fog_stanford.npz "
        "--daphnet {data}/daphnet.npz",
        "",
        30.0,
        ("gait_healthy.npz", "fog_stanford.npz", "daphnet.npz"),
    ),
    Entry(
        "tsb",
        "tsb --data {data}/tsb_ad_m.npz --published {data}/tsb_ad_m_published_vus_pr.csv",
        "tsb --data {data}/tsb_ad_m.npz --tuning --method linear",
        8.0,
        ("tsb_ad_m.npz", "tsb_ad_m_published_vus_pr.csv"),
    ),
    Entry(
        "peers",
        "peers --data {data}/tsb_ad_m.npz",
        "peers --data {data}/tsb_ad_m.npz --longest 600 --limit 20 --method 'River half-space trees'",
        15.0,
        ("tsb_ad_m.npz",),
    ),
    Entry("attribution", "attribution --data {data}/smd.npz", "", 2.0, ("smd.npz",)),
    Entry(
        "attribution_fog", "attribution --stanford {data}/fog_stanford.npz --epochs 5", "", 10.0, ("fog_stanford.npz",)
    ),
    Entry("attribution_gait", "attribution --gait {data}/gait_healthy.npz --epochs 5", "", 10.0, ("gait_healthy.npz",)),
    Entry(
        "freezing",
        "freezing --daphnet {data}/daphnet.npz --stanford {data}/fog_stanford.npz",
        "freezing --daphnet {data}/daphnet.npz --method energy",
        3.0,
        ("daphnet.npz", "fog_stanford.npz"),
    ),
    Entry("alarms_daphnet", "alarms-real --name daphnet --data {data}/daphnet.npz", "", 20.0, ("daphnet.npz",)),
    Entry(
        "alarms_gait_healthy",
        "alarms-real --name gait_healthy --data {data}/gait_healthy.npz",
        "",
        20.0,
        ("gait_healthy.npz",),
    ),
    Entry(
        "alarms_fog_stanford",
        "alarms-real --name fog_stanford --data {data}/fog_stanford.npz",
        "",
        10.0,
        ("fog_stanford.npz",),
    ),
    Entry("freezing_enrolled", "freezing-enrolled --data {data}/fog_stanford.npz", "", 10.0, ("fog_stanford.npz",)),
    Entry(
        "parity",
        "parity --gait {data}/gait_healthy.npz --stanford {data}/fog_stanford.npz",
        "",
        20.0,
        ("gait_healthy.npz", "fog_stanford.npz"),
    ),
    Entry("arm_use", "arm-use --data {data}/arm_use", "arm-use --data {data}/arm_use --method GMAC", 2.0, ("arm_use",)),
    Entry(
        "exercises",
        "exercises --data {data}/rehab_exercises.npz",
        "exercises --data {data}/rehab_exercises.npz --method duration",
        2.0,
        ("rehab_exercises.npz",),
    ),
    Entry(
        "gait",
        "gait --gait {data}/gait_healthy.npz --soccer {data}/soccer.npz",
        "",
        3.0,
        ("gait_healthy.npz", "soccer.npz"),
    ),
)


def command_of(name: str) -> str:
    """Return how a result of the suite is measured, with data sets in the folder one stands in.

    Raises
    ------
    ConfigError
        No such entry.
    """
    (entry,) = chosen([name], quick=False)
    return f"kinedge bench {entry.command.replace('{data}/', '')}"


def chosen(only: Sequence[str], *, quick: bool) -> list[Entry]:
    """Return the entries of these names, or all, in the order of the suite; in the quick form, those that have one.

    Raises
    ------
    ConfigError
        No such entry, or one without a quick form by name.
    """
    known = {e.name: e for e in SUITE}
    if unknown := [name for name in only if name not in known]:
        raise ConfigError(f"no benchmark {', '.join(unknown)}; there are {', '.join(known)}")
    if quick and (without := [name for name in only if not known[name].quick]):
        raise ConfigError(f"{', '.join(without)}: has no quick form")
    return [e for e in SUITE if (not only or e.name in only) and (e.quick or not quick)]


def with_data(entry: Entry, data: Path | None, *, quick: bool) -> tuple[str, str]:
    """Return the arguments of an entry and, where it cannot run, why not."""
    command = entry.quick if quick else entry.command
    if not entry.files:
        return command, ""
    if data is None:
        return command, f"needs {', '.join(entry.files)}: say where by --data"
    if missing := [name for name in entry.files if not (data / name).exists()]:
        return command, f"{data} lacks {', '.join(missing)}"
    return command.replace("{data}", str(data)), ""


def is_done(path: Path) -> bool:
    """Whether a result of this very source is there: of this commit, or of this version where it is installed."""
    if not path.exists():
        return False
    try:
        found = read_result(path)
    except ConfigError:
        return False
    commit, _ = source_commit()
    return found.kinedge == __version__ and found.machine.get("commit") == commit
