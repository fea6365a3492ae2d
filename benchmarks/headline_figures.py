"""The figures of the README's tables: what was measured, how far it scatters, and whether it is what was aimed at.

Each takes the rows of one result or of several. The scatter is a 95 % interval where people, series or time are
counted, the distance of the quartiles of the rounds as a share of their median where time is measured, and otherwise
says itself what it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kinedge.benchmarks.figures import figure_of
from kinedge.training.evaluate import poisson_interval

__all__ = [
    "Measured",
    "added_latency",
    "attribution",
    "cautious",
    "changes_found",
    "changes_found_of_enrolled",
    "crowd",
    "end_to_end",
    "false_of_enrolled",
    "false_of_others",
    "false_of_real_people",
    "faults",
    "flips",
    "freezing",
    "inserts",
    "memory",
    "not_run",
    "others_here",
    "packets",
    "peer",
    "per_person",
    "published",
    "ratio_to_bare_call",
    "root_causes",
    "series",
    "windowed",
]

Row = Mapping[str, Any]
Rows = Sequence[Row]
_ONE_US, _MANY_US = "us_1_streams_chunk_1", "us_64_streams_chunk_1"
_SIX_FAULTS = ("clean", "10 % loss", "30 % loss", "saturation", "dead sensor", "swap")
_OF_ONE_SENSOR = ("saturation", "dead sensor", "stuck", "flat line", "duplicate", "off-body", "held axis")
_PROMISED_MIN = 15.0


@dataclass(frozen=True)
class Measured:
    """A figure, its scatter, and whether the goal is reached; None where there is none, or nothing can be said."""

    figure: str
    spread: str = ""
    reached: bool | None = None


def _one(rows: Rows, what: str, **more: Any) -> Row:
    return next(r for r in rows if r["what"] == what and all(r.get(k) == v for k, v in more.items()))


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else f"{100 * share:.1f} %"


def _range(values: Iterable[float], digits: int = 2, word: str = "to") -> str:
    found = sorted(values)
    return f"{found[0]:.{digits}f} {word} {found[-1]:.{digits}f}"


def _count(words: str) -> tuple[int, int]:
    found, of = words.split(" of ")
    return int(found), int(of)


# Latency


def per_person(what: str) -> Callable[[Rows], Measured]:
    """Return what gives a row of `step` as microseconds a person and hop, for one person and for 256."""

    def figure(rows: Rows) -> Measured:
        one, many = (_one(rows, what, streams=n) for n in (1, 256))
        spread = f"{_percent(one['spread'])}; {_percent(many['spread'])}"
        return Measured(f"{one['median_us']:.0f} µs; {many['median_us'] / 256:.0f} µs", spread)

    return figure


def ratio_to_bare_call(rows: Rows) -> Measured:
    """Return the edge's step over ONNX Runtime's bare call, for chunks of fifty and of ten samples."""
    fifty, ten = (_one(rows, f"chunks of {n}", streams=256) for n in (50, 10))
    spread = f"{_percent(fifty['spread'])}; {_percent(ten['spread'])}"
    ratios = fifty["ratio"], ten["ratio"]
    return Measured(f"{ratios[0]:.2f}; {ratios[1]:.2f}", spread, max(ratios) <= 1.5)


def others_here(rows: Rows) -> Measured:
    """Return a hop of one person by every backend that ran in `gpu`."""
    ran = [r for r in rows if r.get("streams") == 1 and r["status"] == "ran"]
    spread = "; ".join(_percent(r["spread"]) for r in ran)
    return Measured("; ".join(f"{r['what']} {r['median_us']:,.0f} µs" for r in ran), spread)


def not_run(*named: str) -> Callable[[Rows], Measured]:
    """Return what gives how many rows that name one of these were not run."""

    def figure(rows: Rows) -> Measured:
        found = [r["status"] for r in rows if "status" in r and any(name in r["what"] for name in named)]
        left = found.count("not run")
        return Measured(f"**not run** ({left} of {len(found)} rows)" if left else f"{len(found)} rows ran")

    return figure


def end_to_end(rows: Rows) -> Measured:
    """Return the age of the newest sample at its verdict, and of the last packet, by each backend asked for."""
    ages = {r["what"]: r for r in rows if "p99_ms" in r}
    newest = [what for what in ages if what.startswith("newest sample")]
    told, late = [], []
    for what in newest:
        name, row = what.partition(", ")[2], ages[what]
        packet = ages.get(what.replace("newest sample", "last packet"))
        told.append(f"{name}{' ' if name else ''}{row['p50_ms']:.0f}, {row['p99_ms']:.0f} ms")
        told[-1] += f" ({packet['p50_ms']:.1f}, {packet['p99_ms']:.1f} since the packet)" if packet else ""
        late.append(_percent(row["late_share"]))
    spread = f"{ages[newest[0]]['n']} verdicts each; {', '.join(late)} past 205 ms"
    return Measured("; ".join(told), spread, max(ages[what]["p99_ms"] for what in newest) <= 205)


# Streams


def crowd(people: int, goal: int) -> Callable[[Rows], Measured]:
    """Return what gives how many people a core carries, as measured with so many."""

    def figure(rows: Rows) -> Measured:
        found = _one(rows, "crowd", people=people)["people_per_core"]
        return Measured(f"{found:,}", "one run", found >= goal)

    return figure


def memory(rows: Rows) -> Measured:
    """Return what a person takes in memory."""
    row = _one(rows, "memory")
    return Measured(f"{row['kb_per_person']:.0f} kB", f"mean of {row['people']}", row["kb_per_person"] <= 64)


def added_latency(people: int) -> Callable[[Rows], Measured]:
    """Return what gives what the edge adds to hop and radio in 99 of 100 verdicts of a crowd."""

    def figure(rows: Rows) -> Measured:
        row = _one(rows, "crowd", people=people)
        longest = row["wait_p99_ms"]
        return Measured(f"{longest:.1f} ms", f"median {row['wait_p50_ms']:.1f}, one run", longest <= 5)

    return figure


# Accuracy


def _best_published(rows: Rows) -> Row:
    return max((r for r in rows if r["origin"] == "published"), key=lambda r: float(r["vus_pr"]))


def series(rows: Rows) -> Measured:
    """Return the VUS-PR of the fused detector without lag."""
    row = _one(rows, "fused", lag=0)
    ahead = row["vus_pr"] > _best_published(rows)["vus_pr"]
    return Measured(f"{row['vus_pr']:.3f}", f"{row['low']:.2f} to {row['high']:.2f}", ahead)


def published(rows: Rows) -> Measured:
    """Return the best published VUS-PR on the same series."""
    row = _best_published(rows)
    return Measured(f"{row['what']} {row['vus_pr']:.3f}", f"{row['low']:.2f} to {row['high']:.2f}")


def _peers(rows: Rows) -> list[Row]:
    kept = [r for r in rows if r.get("kind") == "detector" and r.get("vus_pr") is not None]
    return [r for r in kept if not r["what"].startswith("kinedge")]


def peer(which: str) -> Callable[[Rows], Measured]:
    """Return what gives accuracy and cost of ``ours``, of the ``cheapest`` peer, or of the ``best``."""

    def figure(rows: Rows) -> Measured:
        theirs, ours = _peers(rows), _one(rows, "kinedge linear")
        cheapest = min(theirs, key=lambda r: float(r[_ONE_US]))
        best = max(theirs, key=lambda r: float(r["vus_pr"]))
        row = {"ours": ours, "cheapest": cheapest, "best": best}[which]
        name = "" if which == "ours" else f"{row['what']} "
        of_series = [v for k, v in row.items() if k.split(" ")[0] in ("MSL", "Daphnet", "SMD", "SMAP")]
        spread = f"series {_range(of_series)}; times {_percent(row['spread'])}"
        ahead = ours[_ONE_US] < cheapest[_ONE_US] and ours["vus_pr"] > best["vus_pr"]
        told = f"{name}{row['vus_pr']:.3f} at {row[_ONE_US]:,.0f} µs"
        return Measured(told, spread, ahead if which == "ours" else None)

    return figure


def windowed(rows: Rows) -> Measured:
    """Return how many times the windowed call of ONNX Runtime costs what the step in C does, sample by sample."""
    row = _one(rows, "ONNX Runtime, windowed")
    times = [row[f"times_native_{n}_streams_chunk_1"] for n in (1, 64)]
    return Measured(f"{times[0]:.0f}; {times[1]:.0f} times", _percent(row["spread"]), min(times) >= 20)


def freezing(rows: Rows) -> Measured:
    """Return what the gait preset finds of freezes, a patient left out."""
    row = _one(rows, "daphnet, kinedge gait preset, own threshold")
    rate, _, interval = str(row["false_per_hour"]).partition(" ")
    return Measured(
        f"{row['found']}, {rate} false an hour: **do not use it for that**", f"{interval.strip('()')} false"
    )


def changes_found(rows: Rows) -> Measured:
    """Return what is found of changes put into simulated people without an enrolment."""
    kinds = [_count(r["found"]) for r in rows if r["found"]]
    sensors = [_count(r["right_sensor"]) for r in rows if r["right_sensor"]]
    found, of = (sum(k[i] for k in kinds) for i in (0, 1))
    right, named = (sum(s[i] for s in sensors) for i in (0, 1))
    low, high = min(kinds), max(kinds)
    told = f"{found} of {of}; right sensor {right} of {named}"
    return Measured(told, f"kinds {low[0]} of {low[1]} to {high[0]} of {high[1]}")


# False episodes


def false_of_others(rows: Rows) -> Measured:
    """Return false episodes of people without an enrolment."""
    row = _one(rows, "ordinary movement, 0% loss")
    rate, _, interval = str(row["false_per_hour"]).partition(" ")
    return Measured(f"{rate} an hour, {row['unsure']} unsure", interval.strip("()"))


def false_of_enrolled(rows: Rows) -> Measured:
    """Return false episodes on a new day beside the promise, and the time it stands."""
    row = _one(rows, "new day, e-detector")
    times, valid = figure_of(row["of_promise"]), figure_of(row["valid"])
    met = times is not None and valid is not None and (times.high or times.value) <= 2 and valid.value >= 0.7
    interval = str(row["of_promise"]).partition(" ")[2].strip("()")
    return Measured(
        f"{row['false']} in {row['hours']:.0f} h, {row['valid']} valid", f"{interval} times the promise", met
    )


def changes_found_of_enrolled(rows: Rows) -> Measured:
    """Return how many changes are found on that day."""
    row = _one(rows, "new day, e-detector")
    found, of = _count(row["found"])
    kinds = [n / m for n, m in map(_count, row["found_by_kind"].values())]
    return Measured(
        f"{found} of {of} ({_percent(found / of)})", f"kinds {_range((100 * k for k in kinds), 0)} %", found >= 0.6 * of
    )


def false_of_real_people(*results: Rows) -> Measured:
    """Return false episodes of real people together, one promised in a quarter of an hour."""
    rows = [r for rows in results for r in rows if r["what"].endswith("all, e-detector")]
    false, minutes = sum(int(r["false"]) for r in rows), sum(float(r["minutes"]) for r in rows)
    promised = minutes / _PROMISED_MIN
    low, high = (n / promised for n in poisson_interval(false))
    return Measured(
        f"{false} in {minutes:.0f} min, {promised:.1f} promised: too little to tell", f"{low:.2f}-{high:.2f} times"
    )


# Caution


def _of(rows: Rows, data: str) -> list[Row]:
    return [r for r in rows if r["what"].startswith(f"{data}, ") and "second half" not in r["what"]]


def cautious(data: str, what: str, *, aimed_at: bool = True) -> Callable[[Rows], Measured]:
    """Return what gives a figure over the faults aimed at, or over the others, from the worst to the best.

    ``what`` is ``u80``, ``u_plain`` (that of a plain threshold), ``aurc`` (less the plain threshold's), ``reason`` (how
    often the first one of an abstention is right), or ``u65`` and ``u65_others``, less that of a band of p-values.
    """

    def figure(rows: Rows) -> Measured:
        named = _OF_ONE_SENSOR if what == "u65_others" else _SIX_FAULTS
        found = [r for r in _of(rows, data) if (r["what"].partition(", ")[2] in named) is aimed_at]
        if what == "u_plain":
            return Measured(_range([float(r[what]) for r in found], 3))
        if what == "reason":
            right = [float(r["right_reason"]) for r in found if r.get("right_reason") is not None]
            return Measured(_range(right, 3), f"{found[0]['people']} people", min(right) >= 0.85)
        if what == "aurc":
            less = [float(r["aurc"]) - float(r["aurc_plain"]) for r in found]
            return Measured(_range(less, 3), "", max(less) <= 0)
        if what == "u80":
            values, error = [float(r["u80"]) for r in found], "u80_se"
        else:
            values, error = [float(r[what]) - float(r["u65_band"]) for r in found], f"{what}_over_band_se"
        goal = 0.82 if what == "u80" else 0.0
        spread = f"± {max(float(r[error]) for r in found):.3f} at most"
        return Measured(_range(values, 3), spread, min(values) >= goal)

    return figure


# Attribution


def attribution(
    whom: str, of: str, goal: float, *, when: str = "alarm", spoilt: str = "one channel"
) -> Callable[[Rows], Measured]:
    """Return what gives how often the right channel or sensor comes first, at an alarm as a rule."""

    def figure(rows: Rows) -> Measured:
        row = _one(rows, f"gait_healthy, {whom}, {spoilt}, {when}")
        return Measured(f"{row[of]:.3f}", _range(row[f"{of}_95"], 3), row[of] >= goal)

    return figure


def root_causes(rows: Rows) -> Measured:
    """Return HitRate@100 on machines with labelled causes, by the way that is best."""
    row = _one(rows, "residual given its own past, peak")
    return Measured(f"{row['hit_rate_100']:.3f}", f"{row['low']:.3f} to {row['high']:.3f}")


# Forms of a model


def moved(form: str, keys: tuple[str, ...], goal: float) -> Callable[[Rows], Measured]:
    """Return what gives how far another form of a model moves a measure, at most, up or down."""

    def figure(rows: Rows) -> Measured:
        of = [r for r in rows if r["what"].endswith(form) and r["status"] == "ran"]
        far = [abs(float(r[k])) for r in of for k in keys if r[k] is not None]
        return Measured(f"{max(far):.4f} at most", f"{len(of)} trainings, {_range(far, 4)}", max(far) <= goal)

    return figure


def flips(form: str) -> Callable[[Rows], Measured]:
    """Return what gives the share of verdicts that another form of a model decides otherwise."""

    def figure(rows: Rows) -> Measured:
        shares = [100 * float(r["flipped"]) for r in rows if r["what"].endswith(form) and r["status"] == "ran"]
        return Measured(
            f"{max(shares):.2f} % at most", f"{len(shares)} trainings, {_range(shares)}", max(shares) <= 0.5
        )

    return figure


# Faults, decoder, collector


def faults(rows: Rows) -> Measured:
    """Return samples that are unaccounted for when devices fail in every way."""
    row = _one(rows, "all")
    told = f"{row['unaccounted']} of {row['sent']:,} samples"
    return Measured(told, f"{row['restarts']} restarts, {row['reconnects']} reconnects", row["unaccounted"] == 0)


def packets(way: str) -> Callable[[Rows], Measured]:
    """Return what gives the time to decode a packet, and what a loop over samples takes of it."""

    def figure(rows: Rows) -> Measured:
        row, loop = _one(rows, way), _one(rows, "struct loop")
        less = f", {loop['ratio']:.0f} times less than a loop over samples" if way == "burst" else ""
        return Measured(f"{row['us_per_packet']:.1f} µs{less}", _percent(row["spread"]))

    return figure


def inserts(database: str) -> Callable[[Rows], Measured]:
    """Return what gives the collector's episodes beside the database's bare inserts."""

    def figure(rows: Rows) -> Measured:
        row = _one(rows, f"{database}: collector")
        spread = f"turns {row['ratio_lowest']:.2f} to {row['ratio_highest']:.2f}"
        return Measured(f"{row['ratio']:.2f} ({row['episodes_per_s']:,.0f} a second)", spread, row["ratio"] >= 0.4)

    return figure
