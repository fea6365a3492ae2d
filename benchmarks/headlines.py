"""The table of the README: one line for each thing that is promised, with its goal, from the committed results.

A line names the rows it takes; a result that is not there is "not measured". Lines are chosen by what was promised,
never by how well it went.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kinedge.benchmarks.results import Result

__all__ = ["HEADLINES", "Headline", "headlines_text"]

Row = Mapping[str, Any]
_Rows = Sequence[Row]


@dataclass(frozen=True)
class Headline:
    """A line: what, from which results, the figure of their rows, the goal, and the benchmark."""

    what: str
    sources: tuple[str, ...]
    figure: Callable[..., str]
    goal: str
    bench: str


def _one(rows: _Rows, what: str, **more: Any) -> Row:
    return next(r for r in rows if r["what"] == what and all(r.get(k) == v for k, v in more.items()))


def _range(values: Iterable[float], digits: int = 2) -> str:
    found = sorted(values)
    return f"{found[0]:.{digits}f} to {found[-1]:.{digits}f}"


def _caution(rows: _Rows, data: str, key: str) -> str:
    of_data = [r for r in rows if r["what"].startswith(f"{data}, ") and "second half" not in r["what"]]
    return _range(r[key] for r in of_data if r.get(key) is not None)


def _over_band(rows: _Rows) -> str:
    named = [f"simulated, {c}" for c in ("clean", "10 % loss", "30 % loss", "saturation", "dead sensor", "swap")]
    return _range((r["u65"] - r["u65_band"] for r in rows if r["what"] in named), digits=3)


def _others_over_band(rows: _Rows) -> str:
    named = [f"simulated, {c}" for c in ("saturation", "dead sensor", "stuck", "flat line", "duplicate", "off-body")]
    return _range((r["u65_others"] - r["u65_band"] for r in rows if r["what"] in named), digits=3)


def _false_on_real(*results: _Rows) -> str:
    rows = [r for rows in results for r in rows if r["what"].endswith("all, e-detector")]
    false, minutes = sum(int(r["false"]) for r in rows), sum(float(r["minutes"]) for r in rows)
    return f"{false} in {minutes:.0f} minutes: too little to tell"


def _ratio(rows: _Rows) -> str:
    fifty, ten = (_one(rows, f"chunks of {n}", streams=256)["ratio"] for n in (50, 10))
    own = _one(rows, "chunks of 50", streams=256).get("ratio_of_backend", fifty)
    return f"**{fifty:.1f}** (chunks of 50; {own:.1f} × that of the backend that ran), {ten:.1f} (of 10)"


def _crowd(rows: _Rows) -> str:
    people = _one(rows, "crowd", people=4000)["people_per_core"]
    return f"{people:,}, {_one(rows, 'memory')['kb_per_person']:.0f} kB each"


def _peers(rows: _Rows) -> str:
    ours, theirs = _one(rows, "kinedge linear"), [r for r in rows if not r["what"].startswith("kinedge")]
    theirs = [r for r in theirs if r.get("kind") == "detector" and r.get("vus_pr") is not None]
    cost = "us_1_streams_chunk_1"
    near, good = min(theirs, key=lambda r: float(r[cost])), max(theirs, key=lambda r: float(r["vus_pr"]))
    told = "{0:.3f} at {1:.1f} µs; cheapest of {2} peers ({3}) {4:.3f} at {5:.0f}, best ({6}) {7:.3f} at {8:,.0f}"
    cheapest, best = ((r["what"], r["vus_pr"], r[cost]) for r in (near, good))
    return told.format(ours["vus_pr"], ours[cost], len(theirs), *cheapest, *best)


def _freezing(rows: _Rows) -> str:
    row = _one(rows, "daphnet, kinedge gait preset, own threshold")
    return f"{row['found']} found, {row['false_per_hour']} false an hour: **do not use it for that**"


def _new_day(rows: _Rows) -> str:
    row = _one(rows, "new day, e-detector")
    return f"**{row['false']}** in {row['hours']:.0f} h, {row['valid']} valid; {row['of_promise']} times the promise"


def _attribution(rows: _Rows) -> str:
    cohort, own = (_one(rows, f"gait_healthy, {w}, one channel, alarm")["channel"] for w in ("cohort", "personal"))
    return f"{cohort:.3f}; enrolled {own:.3f}"


def _collector(rows: _Rows) -> str:
    lite, postgres = (_one(rows, f"{name}: collector") for name in ("sqlite", "postgresql"))
    rate = postgres["episodes_per_s"]
    return f"SQLite {lite['ratio']:.2f}, PostgreSQL {postgres['ratio']:.2f} ({rate:,.0f} a second)"


def _decode(rows: _Rows) -> str:
    burst = _one(rows, "burst")["us_per_packet"]
    return f"{burst:.1f} µs, {_one(rows, 'struct loop')['ratio']:.0f} times less than a loop over samples"


HEADLINES: Final[Sequence[Headline]] = (
    Headline(
        "false episodes an hour of ordinary movement, simulated people the model never met, not enrolled (95 %)",
        ("anomalies",),
        lambda rows: "{false_per_hour}; unsure {unsure} of the time".format(**_one(rows, "ordinary movement, 0% loss")),
        "",
        "anomalies",
    ),
    Headline(
        'false episodes of the enrolled, "at most one in 8 hours", 24 simulated people on a new day',
        ("alarms",),
        _new_day,
        "at most 2 times the promise, 70 % valid",
        "alarms",
    ),
    Headline(
        "… and how many changes are found then",
        ("alarms",),
        lambda rows: f"**{_one(rows, 'new day, e-detector')['found']}**; quiet deficits hardly ever",
        "60 %",
        "alarms",
    ),
    Headline(
        "… false episodes of real people, one promised in 15 minutes",
        ("alarms_daphnet", "alarms_gait_healthy", "alarms_fog_stanford"),
        _false_on_real,
        "",
        "alarms-real",
    ),
    Headline(
        "TSB-AD-M, 27 series, VUS-PR without lag (95 %); best published .441",
        ("tsb",),
        lambda rows: "**{vus_pr:.3f}** ({low:.2f} to {high:.2f})".format(**_one(rows, "fused", lag=0)),
        "ahead",
        "tsb",
    ),
    Headline("… four of them beside peers that were run here, one stream", ("peers",), _peers, "ahead of all", "peers"),
    Headline("freezing of gait, real patients, one left out", ("freezing",), _freezing, "", "freezing"),
    Headline(
        "caution under ten faults, simulated: utility u80 (a plain threshold's beside it)",
        ("caution",),
        lambda rows: f"{_caution(rows, 'simulated', 'u80')} ({_caution(rows, 'simulated', 'u_plain')})",
        "0.82",
        "caution",
    ),
    Headline(
        "… u65 less that of a band of p-values, the six faults of the goal",
        ("caution",),
        _over_band,
        "0",
        "caution",
    ),
    Headline(
        '… with `without_sensor = "others"`, the six faults of one sensor',
        ("caution",),
        _others_over_band,
        "0",
        "caution",
    ),
    Headline(
        "… real walks, not enrolled",
        ("caution",),
        lambda rows: f"**{_caution(rows, 'gait_healthy', 'u80')}**",
        "0.82",
        "caution",
    ),
    Headline(
        "… the first reason of unsure is right, simulated",
        ("caution",),
        lambda rows: _caution(rows, "simulated", "right_reason"),
        "0.85",
        "caution",
    ),
    Headline(
        "the channel where a surprise starts is right, real walks",
        ("attribution_gait",),
        _attribution,
        "0.92",
        "attribution",
    ),
    Headline(
        "verdicts that int8 flips, six trainings",
        ("parity",),
        lambda rows: f"{_range(100 * r['flipped'] for r in rows if r['what'].endswith('ONNX int8'))} %",
        "0.5 %",
        "parity",
    ),
    Headline(
        "edge, decoded chunks to verdicts, 256 people, × the bare call of ONNX Runtime",
        ("step",),
        _ratio,
        "1.5",
        "step",
    ),
    Headline(
        "people of 6 channels at 50 Hz that a core follows, 52,096 parameters",
        ("throughput",),
        _crowd,
        "4,000, 64 kB",
        "throughput",
    ),
    Headline("decoding a packet of 10 samples", ("decode",), _decode, "", "decode"),
    Headline("collector, episodes beside the database's bare inserts", ("collector",), _collector, "0.4", "collector"),
)


def headlines_text(results: Mapping[str, Result]) -> str:
    """Write the table, with the days of the results under it."""
    lines = ["| what | measured | aimed at | `kinedge bench` |", "|---|---|---|---|"]
    used: dict[str, str] = {}
    for line in HEADLINES:
        there = [results[s] for s in line.sources if s in results]
        if len(there) < len(line.sources):
            figure = "not measured"
        else:
            figure = line.figure(*(r.rows for r in there))
            used |= {s: r.day for s, r in zip(line.sources, there, strict=True)}
        lines.append(f"| {line.what} | {figure} | {line.goal} | `{line.bench}` |")
    days = {day: sorted(s for s in used if used[s] == day) for day in sorted(set(used.values()))}
    told = "; ".join(f"{day}: {', '.join(names)}" for day, names in days.items())
    return "\n".join(lines) + (f"\n\nMeasured on {told}.\n" if told else "\n")
