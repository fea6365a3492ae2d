"""Weeks of made people in a store, through the code that keeps real ones: ``python report_people.py FOLDER``."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from sample_episodes import sample_fields

from kinedge.edge.caution import Decision
from kinedge.edge.measures.config import MeasuresConfig
from kinedge.edge.measures.day import Estimate, MeasuredDay
from kinedge.edge.measures.notice import episode_of
from kinedge.edge.measures.person import MeasuresRow, day_row
from kinedge.edge.measures.watch import DayWatch
from kinedge.edge.measures_store import MeasuresStore
from kinedge.edge.narrative import abstention, summarise
from kinedge.edge.reasons import Reason
from kinedge.edge.reports.week import Week
from kinedge.edge.store import EpisodeStore
from kinedge.edge.verdict_hours import VerdictHours, VerdictTally

ZONE = "Europe/Paris"
WEEK = Week(2026, 47)
PROMISE = (
    "while calibration is valid, at most one false episode per 7 days is expected, if ordinary movement behaves like "
    "that of the 40 people the model was calibrated on; at enrolment it did"
)
BASIS = {
    "model_digest": "4f" * 32, "config_digest": "a7" * 32, "kinedge_version": "0.1.0", "enrolment_digest": "0c" * 32,
    "promise": PROMISE,
}  # fmt: skip


def arm_day(day: int, worn_h: float, ratio: float, share: float, rng: np.random.Generator) -> MeasuredDay:
    """A day of arms: the left one does ``ratio`` of the right one."""
    active = share * worn_h * 2
    left, right = active * ratio / (1 + ratio), active / (1 + ratio)
    found = {
        "active_h_left": Estimate(left, left * 0.9, left * 1.1, "h"),
        "active_h_right": Estimate(right, right * 0.92, right * 1.08, "h"),
        "active_share": Estimate(share, share * 0.93, share * 1.07),
        "use_ratio": Estimate(ratio, ratio * np.exp(-0.08), ratio * np.exp(0.08)),
    }
    return MeasuredDay("arm", day, worn_h, 24 - worn_h - 0.6, 0.6, float(rng.uniform(0.4, 1.1)), found)


def gait_day(day: int, worn_h: float, index: float, steps: float) -> MeasuredDay:
    """A day of legs."""
    found = {
        "contact_symmetry_index": Estimate(index, index - 1.1, index + 1.1, "%"),
        "steps_left": Estimate(steps / 2, steps / 2 * 0.9, steps / 2 * 1.1),
        "steps_right": Estimate(steps / 2 + 3, steps / 2 * 0.9 + 3, steps / 2 * 1.1 + 3),
    }
    return MeasuredDay("gait", day, worn_h, 24 - worn_h, 0.0, worn_h * 0.4, found)


def rows_of(days: list[MeasuredDay], *, affected: bool) -> tuple[list[MeasuresRow], list[Any]]:
    """Rows as the gateway keeps them, and the changes that it tells."""
    watch = DayWatch(days[0].part, affected=affected)
    state, rows, changes = watch.initial_state(), [], []
    for day in days:
        watched, told, state = watch.step(day, state)
        rows.append(day_row(day, watched))
        changes += told
    return rows, changes


def said(decision: Decision, *reasons: tuple[str, str | None]) -> Any:
    """Return what the tally reads of a verdict."""
    found = tuple(Reason(code, code, 5.0 - i, sensor) for i, (code, sensor) in enumerate(reasons))
    return SimpleNamespace(decision=decision, of_all=decision, reasons=found)


async def answer(store: EpisodeStore, subject: str, script: list[tuple[int, Any, int]], basis: Any = BASIS) -> None:
    """Count so many answers of one kind from each moment (UTC s) on, half a second apart."""
    tally = VerdictTally(VerdictHours(store.database), timezone=ZONE, note=print)
    builder: Any = SimpleNamespace(hop_s=0.5, provenance=basis)
    for utc_s, verdict, n in script:
        for i in range(n):
            tally.add(subject, verdict, builder, end_utc_ns=utc_s * 10**9 + i * 500_000_000 + 1)
    assert await tally.keep()


def episode(number: int, start_utc_ns: int, seconds: int, **changes: Any) -> dict[str, Any]:
    """Fields of an episode that rests on the same as the answers."""
    basis = dict(BASIS)
    times = {"start_utc_ns": start_utc_ns, "end_utc_ns": start_utc_ns + seconds * 10**9}
    return sample_fields(number, subject="p-001", gateway="gw-01", site="clinic-a", **times, **basis) | changes


def fill(store: EpisodeStore, *, week: Week = WEEK) -> list[str]:
    """Fill a store with five weeks of p-001 (arms, left affected) and p-002 (legs); return ids of p-001's episodes."""
    rng = np.random.default_rng(7)
    first = week.first_day - 28
    arms, legs = [], []
    for i in range(35):
        ratio = 0.62 + 0.03 * rng.standard_normal() - (0.16 if i >= 31 else 0.0)
        worn = 3.1 if i in (9, 30) else 13 + float(rng.uniform(-2, 2))
        if i not in (16, 32):  # days of which nothing was kept
            arms.append(arm_day(first + i, worn, float(ratio), 0.31 + 0.02 * float(rng.standard_normal()), rng))
        if i % 2 == 0:
            legs.append(gait_day(first + i, 1.6, 2.0 + float(rng.standard_normal()), 3200 + 300 * float(rng.normal())))
    measures = MeasuresStore(store.database)
    rows, changes = rows_of(arms, affected=True)
    measures.save("p-001", rows, {})
    measures.save("p-002", rows_of(legs, affected=False)[0], {})
    start_s = week.utc_ns(ZONE)[0] // 10**9
    off = said(Decision.UNSURE, ("off_body", "wrist_left"))
    lost = said(Decision.UNSURE, ("no_data", "wrist_right"))
    between = said(Decision.UNSURE, ("between", None))
    script = []
    for day in range(6):
        for hour in range(8, 20):
            at = start_s + day * 86_400 + hour * 3600
            odd = 90 if (day, hour) in ((1, 10), (4, 15)) else 0
            why, n = (off, 2400) if day == 2 and hour > 10 else (lost, 700) if hour in (12, 17) else (between, 260)
            script += [(at, said(Decision.NORMAL), 6600 - n - odd), (at + 3300, why, n // 4), (at + 1, why, n - n // 4)]
            script += [(at + 5, said(Decision.ANOMALOUS), odd)] if odd else []
    asyncio.run(answer(store, "p-001", script))
    told = summarise("wrist_left", "gyr_z", movement=-2.6, share=0.72, seconds=20)
    spoken = {
        "sensor": told.sensor, "quantity": told.quantity, "amount": told.amount, "movement": told.movement,
        "share": told.share, "seconds": told.seconds, "truth": told.truth, "text": dict(told.text),
    }  # fmt: skip
    left = [{"sensor": "wrist_left", "share": 0.71}, {"sensor": "wrist_right", "share": 0.29}]
    different = {"explanation": spoken, "sentence": told.text["en"], "contributions": left}
    why_unsure = Reason("off_body", "", 5.0, "wrist_left")
    words = {"en": abstention(why_unsure), "fr": abstention(why_unsure, language="fr")}
    unsure_trail = [
        {
            "wall_time_utc_ns": 0, "decision": "unsure", "score": 1.0, "p_value": 0.2, "belief_normal": 0.1,
            "belief_anomalous": 0.1, "reasons": [],
        }
    ]  # fmt: skip
    ids = [
        store.commit(episode(n, (start_s + at) * 10**9, seconds, **changes)).id
        for n, (at, seconds, changes) in enumerate(
            [
                (1 * 86_400 + 10 * 3600 + 900, 46, different),
                (
                    2 * 86_400 + 11 * 3600, 1500,
                    {
                        "abstentions": [{"code": "off_body", "sensor": "wrist_left", "share": 0.9, "text": words}],
                        "sentence": words["en"], "trail": unsure_trail, "unsure_share": 1.0, "contributions": [],
                    },
                ),
                (4 * 86_400 + 15 * 3600 + 120, 71, different),
            ]
        )
    ]  # fmt: skip
    for change in changes:
        fields = episode_of(
            change, MeasuresConfig(timezone=ZONE), subject="p-001", affected="left", zone_offset_s=3600,
            end_utc_s=(change.day + 1) * 86_400 - 3599, config_digest=BASIS["config_digest"], kinedge_version="0.1.0",
        )  # fmt: skip
        ids.append(store.commit({**fields, "site": "clinic-a", "gateway": "gw-01"}).id)
    return ids


def fill_folder(folder: Path) -> Path:
    """Fill ``edge.db`` of a folder, on the morning after the week."""
    folder.mkdir(parents=True, exist_ok=True)
    ns = WEEK.utc_ns(ZONE)[1] + 9 * 3600 * 10**9
    with EpisodeStore(folder / "edge.db", wall_clock_ns=lambda: ns) as store:
        fill(store)
    return folder


if __name__ == "__main__":
    fill_folder(Path(sys.argv[1]))
