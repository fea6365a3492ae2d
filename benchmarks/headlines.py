"""The tables of the README: a line for each thing that is promised, with scatter and goal, from the committed results.

A line names the results it takes; one that is not there is "not measured". Lines are chosen by what was promised, never
by how well it went, and a goal that is missed says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kinedge.benchmarks import headline_figures as figures
from kinedge.benchmarks.captions import caption
from kinedge.benchmarks.headline_figures import Measured
from kinedge.benchmarks.results import Result
from kinedge.benchmarks.suite import command_of

__all__ = ["GROUPS", "HEADLINES", "Headline", "headlines_text"]


@dataclass(frozen=True)
class Headline:
    """A line: what, from which results, the figure of their rows, and the goal."""

    what: str
    sources: tuple[str, ...]
    figure: Callable[..., Measured]
    goal: str = ""


_REAL: Final = ("alarms_daphnet", "alarms_gait_healthy", "alarms_fog_stanford")

GROUPS: Final[Mapping[str, Sequence[Headline]]] = {
    "Latency, by backend": (
        Headline(
            "a second of one person's samples, bare step in C (`native`): alone; of 256",
            ("step",),
            figures.per_person("native in pieces"),
        ),
        Headline("… bare call of ONNX Runtime (`onnx`)", ("step",), figures.per_person("onnxruntime")),
        Headline("… decoded chunks of 50 to verdict, by `native`", ("step",), figures.per_person("chunks of 50")),
        Headline(
            "… that × the bare call of ONNX Runtime, 256 people: chunks of 50; of 10",
            ("step",),
            figures.ratio_to_bare_call,
            "1.5",
        ),
        Headline(
            "… backends of `kinedge bench gpu`, one person, a model trained there", ("gpu_check",), figures.others_here
        ),
        Headline(
            "… on CUDA and TensorRT: no GPU was at hand",
            ("gpu_check",),
            figures.not_run("torch cuda", "onnxruntime cuda", "tensorrt"),
        ),
        Headline(
            "newest sample to verdict, real time over ttys: median, 99 %",
            ("stages",),
            figures.end_to_end,
            "99 % within 205 ms",
        ),
    ),
    "Streams per core": (
        Headline(
            "people of 6 channels at 50 Hz, 52,096 parameters", ("throughput",), figures.crowd(4000, 4000), "4,000"
        ),
        Headline("people of 18 channels at 100 Hz", ("throughput_18",), figures.crowd(600, 600), "600"),
        Headline("memory of a person of 6 channels", ("throughput",), figures.memory, "64 kB"),
        Headline(
            "added to hop and radio, 99 %, 600 people of 18", ("throughput_18",), figures.added_latency(600), "5 ms"
        ),
        Headline("… 4,000 people of 6", ("throughput",), figures.added_latency(4000), "5 ms"),
    ),
    "Accuracy, beside published methods and peers run here": (
        Headline("TSB-AD-M, 27 series, VUS-PR without lag", ("tsb",), figures.series, "ahead"),
        Headline("… best published on them", ("tsb",), figures.published),
        Headline(
            "four of them, one stream, sample by sample: kinedge linear",
            ("peers",),
            figures.peer("ours"),
            "ahead of all",
        ),
        Headline("… the cheapest peer", ("peers",), figures.peer("cheapest")),
        Headline("… the most accurate peer", ("peers",), figures.peer("best")),
        Headline(
            "windowed recomputation by ONNX Runtime, × the step in C, sample by sample: 1 stream; 64",
            ("peers",),
            figures.windowed,
            "20",
        ),
        Headline("changes put into simulated people, not enrolled: found", ("anomalies",), figures.changes_found),
        Headline("freezing of gait, real patients, one left out: found", ("freezing",), figures.freezing),
    ),
    "False episodes against the promise": (
        Headline(
            "ordinary movement, simulated people the model never met, not enrolled: nothing promised",
            ("anomalies",),
            figures.false_of_others,
        ),
        Headline(
            'enrolled, "at most one in 8 hours", 24 simulated people on a new day',
            ("alarms",),
            figures.false_of_enrolled,
            "2 times, 70 % valid",
        ),
        Headline(
            "… changes found then; quiet deficits hardly ever", ("alarms",), figures.changes_found_of_enrolled, "60 %"
        ),
        Headline("real people enrolled on minutes, one promised in 15 minutes", _REAL, figures.false_of_real_people),
    ),
    "Caution under faults": (
        *(
            Headline(f"{whose if what == 'u80' else '…'} {name}", ("caution",), figures.cautious(data, what), goal)
            for data, whose in (
                ("simulated", "simulated, the six conditions of the goal:"),
                ("gait_healthy", "real walks, not enrolled:"),
                ("fog_stanford", "patients (Stanford):"),
                ("daphnet", "patients (Daphnet, five conditions: no pair of sides):"),
            )
            for name, what, goal in (
                ("utility u80", "u80", "0.82"),
                ("u65 less that of a band of p-values", "u65", "0"),
                ("AURC less a plain threshold's", "aurc", "at most 0"),
                ("the first reason of unsure is right", "reason", "0.85"),
            )
        ),
        Headline("simulated, six faults more: u80", ("caution",), figures.cautious("simulated", "u80", aimed_at=False)),
        Headline("… u80 of a plain threshold, the six", ("caution",), figures.cautious("simulated", "u_plain")),
        Headline(
            '… u65 over the band with `without_sensor = "others"`, the seven faults of one sensor',
            ("caution",),
            figures.cautious("simulated", "u65_others"),
            "0",
        ),
    ),
    "Where a surprise starts": (
        Headline(
            "real walks at alarms, right channel first, against the cohort",
            ("attribution_gait",),
            figures.attribution("cohort", "channel", 0.92),
            "0.92",
        ),
        Headline("… enrolled", ("attribution_gait",), figures.attribution("personal", "channel", 0.92), "0.92"),
        Headline(
            "… right sensor first, against the cohort",
            ("attribution_gait",),
            figures.attribution("cohort", "sensor", 0.95),
            "0.95",
        ),
        Headline(
            "… enrolled, right sensor", ("attribution_gait",), figures.attribution("personal", "sensor", 0.95), "0.95"
        ),
        Headline(
            "… sensor, a whole sensor spoilt, against the cohort",
            ("attribution_gait",),
            figures.attribution("cohort", "sensor", 0.95, spoilt="one sensor"),
            "0.95",
        ),
        Headline(
            "… enrolled, a whole sensor spoilt",
            ("attribution_gait",),
            figures.attribution("personal", "sensor", 0.95, spoilt="one sensor"),
            "0.95",
        ),
        Headline(
            "… channel, what is told first against the cohort: an alarm, or the axis that stands still",
            ("attribution_gait",),
            figures.attribution("cohort", "channel", 0.92, when="first told"),
            "0.92",
        ),
        Headline(
            "… sensor, what is told first against the cohort",
            ("attribution_gait",),
            figures.attribution("cohort", "sensor", 0.95, when="first told"),
            "0.95",
        ),
        Headline(
            "… channel, first alarm against the cohort",
            ("attribution_gait",),
            figures.attribution("cohort", "channel", 0.92, when="first alarm"),
            "0.92",
        ),
        Headline(
            "… sensor, first alarm against the cohort",
            ("attribution_gait",),
            figures.attribution("cohort", "sensor", 0.95, when="first alarm"),
            "0.95",
        ),
        Headline(
            "… channel, episode against the cohort",
            ("attribution_gait",),
            figures.attribution("cohort", "channel", 0.92, when="episode"),
            "0.92",
        ),
        Headline(
            "… channel at alarms against the cohort to which the walk as it was gave no cause",
            ("attribution_gait",),
            figures.attribution("cohort", "channel", 0.92, when="alarm, alone"),
            "0.92",
        ),
        Headline(
            "… sensor at these",
            ("attribution_gait",),
            figures.attribution("cohort", "sensor", 0.95, when="alarm, alone"),
            "0.95",
        ),
        Headline("causes of faults of machines (SMD), HitRate@100", ("attribution",), figures.root_causes),
    ),
    "int8, fp16 and TensorRT beside single precision": (
        Headline("verdicts that int8 flips", ("parity",), figures.flips("ONNX int8"), "0.5 %"),
        Headline(
            "… VUS-PR moved",
            ("parity",),
            figures.moved("ONNX int8", ("vus_pr_change", "vus_pr_injected_change"), 0.005),
            "0.005",
        ),
        Headline("… right channel first, moved", ("parity",), figures.moved("ONNX int8", ("hit_at_1_change",), 0), "0"),
        Headline("verdicts that fp16 flips", ("parity",), figures.flips("ONNX fp16"), "0.5 %"),
        Headline("… TensorRT, any precision: no GPU was at hand", ("parity",), figures.not_run("TensorRT")),
    ),
    "Faults survived": (
        Headline(
            "ten minutes of pulled cables, stalls, restarts, damage: samples unaccounted for",
            ("endurance",),
            figures.faults,
            "0",
        ),
        Headline("… without restarts, at five times the pace", ("endurance_steady",), figures.faults, "0"),
    ),
    "Decoder": (
        Headline("a packet of 10 samples, in bursts", ("decode",), figures.packets("burst")),
        Headline("… one packet per read", ("decode",), figures.packets("single")),
    ),
    "Collector": (
        Headline(
            "episodes beside the database's bare inserts, SQLite", ("collector",), figures.inserts("sqlite"), "0.4"
        ),
        Headline("… PostgreSQL", ("collector",), figures.inserts("postgresql"), "0.4"),
    ),
}

HEADLINES: Final[Sequence[Headline]] = tuple(line for lines in GROUPS.values() for line in lines)


def headlines_text(results: Mapping[str, Result]) -> str:
    """Write the tables; under each stand the commands, days, machines and warnings of its results."""
    return "\n".join(_group(title, lines, results) for title, lines in GROUPS.items())


def _group(title: str, lines: Sequence[Headline], results: Mapping[str, Result]) -> str:
    text = [f"### {title}", "", "| | measured | spread | aimed at |", "|---|---|---|---|"]
    text += [_line(line, results) for line in lines]
    used = dict.fromkeys(source for line in lines for source in line.sources if source in results)
    captions = [caption(results[s], command=command_of(s), versions=False) for s in used]
    return "\n".join([*text, "", *(f"{c}  " for c in captions[:-1]), *captions[-1:], ""])


def _line(line: Headline, results: Mapping[str, Result]) -> str:
    rows: list[Sequence[Mapping[str, Any]]] = [results[s].rows for s in line.sources if s in results]
    try:
        found = line.figure(*rows) if len(rows) == len(line.sources) else Measured("not measured")
    except (LookupError, StopIteration, ValueError):  # a run with other settings lacks the rows
        found = Measured("not in this run")
    said = {True: ", reached", False: ", **missed**", None: ""}[found.reached]
    return f"| {line.what} | {found.figure} | {found.spread} | {line.goal}{said if line.goal else ''} |"
