"""Writes the dashboard's fixtures from real objects: simulated people with their troubles, scored by the shipped model.

Run: python tests/board_fixtures.py [web/fixtures]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from kinedge.bundle import read_bundle
from kinedge.edge.alarm import AlarmConfig
from kinedge.edge.config import DEFAULT_BUNDLE
from kinedge.edge.dashboard.state import (
    SCHEMA,
    OutboxReading,
    PersonFacts,
    history_fields,
    model_fields,
    outbox_fields,
    person_fields,
    spare_fields,
    task_fields,
    verdict_fields,
)
from kinedge.edge.dashboard.stream import signals_event
from kinedge.edge.dashboard.tracks import DeviceTrack, PersonTrack, SignalBuffer
from kinedge.edge.dashboard.words import audit_reasons, both, collecting_words
from kinedge.edge.enrol import enrol_recordings
from kinedge.edge.people import People
from kinedge.edge.pipeline import Pipeline
from kinedge.edge.scoring import Scorer
from kinedge.edge.supervisor import TaskState
from kinedge.firmware_bridge.clock import FixedClock
from kinedge.firmware_bridge.device import Battery, DeviceInfo
from kinedge.firmware_bridge.links import LinkClosed
from kinedge.recording import Recording
from kinedge.signals import IMU6, ImuChunk
from kinedge.training.scenario import DemoEvent, demo_recording
from kinedge.training.simulate import SimulationConfig, simulate

UTC_NS = 1_795_000_000 * 10**9
INTERVAL = 20_000_000
SECONDS = 40
KINDS = ["rest_tremor", "noise_burst", "axis_swap"]


def person_recording(n: int) -> Recording:
    """Some people are odd at the end, some lose a sensor, most are as usual."""
    event = ()
    if n % 5 == 1:
        event = (DemoEvent(KINDS[n // 5 % 3], "wrist_right" if n % 2 else "wrist_left", 30.0, 39.9),)
    r = demo_recording(seed=50 + n, duration_s=float(SECONDS), events=event)
    if n % 5 == 2:  # a sensor that is lost
        r.valid[25 * 50 :, r.columns("wrist_left")] = False
    if n % 5 == 4:  # not worn
        rng = np.random.default_rng(n)
        off = r.columns("wrist_right")
        r.values[10 * 50 :, off] = [0, 0, 9.81, 0, 0, 0] + 0.01 * rng.standard_normal((len(r) - 500, 6))
    return r


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    scorer = Scorer(read_bundle(DEFAULT_BUNDLE))
    subjects = [f"p-{i + 1:03d}" for i in range(20)]
    enrolled = {}
    for s, seed in (("p-001", 50), ("p-006", 55)):
        usual = simulate(SimulationConfig(duration_s=2100.0, subject_seed=900_000 + seed, session_seed=seed))
        enrolled[s] = enrol_recordings(scorer, [usual], subject=s, made_s=UTC_NS / 1e9 - 6 * 86_400)
    pipeline = Pipeline(
        scorer, subjects, make_clock=FixedClock, people=People(scorer, subjects, enrolled), alarm=AlarmConfig()
    )
    hop_s = scorer.manifest.hop / scorer.manifest.rate_hz
    tracks = {s: PersonTrack(hop_s) for s in subjects}
    devices: dict[str, list[DeviceTrack]] = {s: [] for s in subjects}
    recordings = {s: person_recording(i) for i, s in enumerate(subjects)}
    for i, s in enumerate(subjects):
        for k, spec in enumerate(recordings[s].sensors):
            d = DeviceTrack(f"id:KE-{2 * i + k + 1:03d}")
            d.hear(DeviceInfo(spec, 50.0, serial=f"KE-{2 * i + k + 1:03d}"), 0)
            d.hear(Battery(95 - (7 * (2 * i + k)) % 90), 0)
            devices[s].append(d)
    watched, transcript = "p-002", []
    buffers = {spec.name: SignalBuffer(IMU6, 50.0) for spec in recordings[watched].sensors}
    for start in range(0, SECONDS * 50, 5):
        now_ns = (start + 5) * INTERVAL
        for i, s in enumerate(subjects):
            r = recordings[s]
            for spec, device in zip(r.sensors, devices[s], strict=True):
                columns = r.columns(spec.name)
                part = slice(start, start + 5)
                time, valid = (start + np.arange(5)) * INTERVAL, r.valid[part, columns]
                if not valid.any():
                    if device.connected and start > 26 * 50:
                        device.hear(LinkClosed("unplugged", now_ns), now_ns)
                    continue
                c = ImuChunk(
                    spec.name,
                    time,
                    r.values[part, columns],
                    valid,
                    ~valid,
                    INTERVAL,
                    lost=int(i % 3 == 0 and start % 50 == 0),
                )
                device.hear(c, now_ns)
                pipeline.push(s, c, channels=IMU6)
                if s == watched:
                    buffers[spec.name].push(UTC_NS + time, c.values, c.valid)
        late = start > (SECONDS - 3) * 50
        for name, buffer in buffers.items():
            taken = buffer.take()
            if late and taken is not None:
                transcript.append(("signals", signals_event(watched, name, IMU6, 50.0, *taken)))
        for scored in pipeline.advance():
            v = scored.batch.verdict(scored.stream)
            tracks[scored.subject].take(v, UTC_NS + v.host_time_ns)
            if late and scored.subject == watched:
                transcript.append(("verdict", {"subject": watched, **verdict_fields(v, UTC_NS + v.host_time_ns)}))
    end_ns, now_ns = UTC_NS + SECONDS * 10**9, SECONDS * 10**9
    enrolling = {
        "p-003": ("collecting", 23 * 60 + 12.0, 1500.0, 1800.0, collecting_words(1392, 1800)),
        "p-008": (
            "done",
            1804.0,
            1960.0,
            1800.0,
            both(
                "learned; compared with their own enrolment from now on",
                "appris ; comparaison avec sa propre référence dès maintenant",
            ),
        ),
        "p-009": (
            "failed",
            300.0,
            1900.0,
            1800.0,
            both(
                "failed: only 16% of 31.7 min can be used, mostly because of wrist_left "
                "(missing, saturated, flat or faulty)",
                "échec : trop peu de données utilisables",
            ),
        ),
    }

    def person(s: str) -> dict[str, Any]:
        e = enrolling.get(s)
        audit = None
        if s == "p-008":
            found = enrolled["p-001"].manifest.audit
            audit = {
                "verdict": found.verdict,
                "text": both(
                    "the cohort's assumption holds for this person",
                    "l'hypothèse de la cohorte est vérifiée pour cette personne",
                ),
                "reasons": audit_reasons(found),
            }
        facts = PersonFacts(
            s,
            devices[s],
            clock_ms={d.info.spec.name: 1.5 + len(d.where) % 4 for d in devices[s] if d.info is not None},
            enrolment=enrolled.get(s),
            basis=pipeline.people.bases[subjects.index(s)],
            n_today=subjects.index(s) % 4,
            episode_utc_ns=end_ns - 8 * 10**9 if tracks[s].verdict.decision.word == "anomalous" else None,  # type: ignore[union-attr]
            muted_until_utc_ns=end_ns + 600 * 10**9 if s == "p-007" else None,
            can_pose=s == "p-002",
            enrolling=None
            if e is None
            else dict(zip(("state", "seconds", "recorded_s", "needed_s", "text", "audit"), (*e, audit), strict=True)),
        )
        return person_fields(facts, tracks[s], scorer, alarm=AlarmConfig(), now_ns=now_ns, now_utc_s=end_ns / 1e9)

    spare = DeviceTrack("ble:KE-SPARE")
    spare.hear(DeviceInfo(recordings["p-001"].sensors[0], 50.0, serial="KE-900"), now_ns)
    spare.hear(Battery(64), now_ns)

    def state(who: list[str]) -> dict[str, Any]:
        reading = OutboxReading(3, 2, 0, end_ns - 900 * 10**9, end_ns - 1200 * 10**9, True, "")
        return {
            "schema": SCHEMA,
            "site": "clinic-a",
            "gateway": "gw-01",
            "version": "0.1.0",
            "utc_ns": end_ns,
            "model": model_fields(scorer),
            "people": [person(s) for s in who],
            "outbox": outbox_fields(reading),
            "tasks": task_fields(
                [
                    TaskState("scorer", True),
                    TaskState("link id:KE-005", False, 3, "LinkError: no such port"),
                    TaskState("http", True),
                ]
            ),
            "notes": [
                {"utc_ns": end_ns - 4 * 10**9, "text": "/dev/ttyACM3 was unplugged"},
                {"utc_ns": end_ns - 10**9, "text": "<b>wrist_left KE-005</b> was p-002's, and is p-003's now"},
            ],
            "spare": spare_fields([spare], now_ns),
            "identify": None,
            "features": {"enrol": True, "assign": True, "mute": True, "stop": True},
        }

    def write(name: str, content: Any) -> None:
        (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

    write("state-2.json", state(subjects[:2]))
    write("state-20.json", state(subjects))
    write("history.json", history_fields(watched, tracks[watched].points))
    events: list[dict[str, Any]] = [{"event": "state", "data": {**state(subjects[:2]), "at_utc_ns": end_ns}}]
    for kind, data in transcript:
        events.append({"event": kind, "data": {**data, "at_utc_ns": data.get("utc_ns", end_ns)}})
    last = tracks[watched].verdict
    events += [
        {"event": "state", "data": {"people": [person(watched)], "at_utc_ns": end_ns}},
        {
            "event": "episode",
            "data": {
                "subject": watched,
                "state": "opened",
                "start_utc_ns": end_ns - 8 * 10**9,
                "end_utc_ns": None,
                "muted": False,
                "sentence": person(watched)["sentence"],
                "at_utc_ns": end_ns,
            },
        },
        {
            "event": "note",
            "data": {
                "utc_ns": end_ns,
                "text": "the machine's clock was stepped by +0.7 s; open episodes keep the time they began with",
                "at_utc_ns": end_ns,
            },
        },
        {
            "event": "identify",
            "data": {
                "state": "waiting",
                "subject": "p-002",
                "sensor": None,
                "seconds_left": 17.5,
                "where": None,
                "serial": "",
                "text": both(
                    "tap or shake the sensor of p-002 now: 17 s",
                    "tapez ou secouez maintenant le capteur de p-002 : 17 s",
                ),
                "at_utc_ns": end_ns,
            },
        },
    ]
    assert last is not None
    write("stream.json", events)
    write(
        "episodes.json",
        {
            "episodes": [
                {
                    "id": "3f" * 32,
                    "subject": watched,
                    "start_utc_ns": end_ns - 3600 * 10**9,
                    "end_utc_ns": end_ns - 3590 * 10**9,
                    "ended": "as_usual",
                    "peak_score": 2.31,
                    "min_p_value": 0.0004,
                    "unsure_share": 0.1,
                    "sentence": person(watched)["sentence"],
                    "sensor": "wrist_right",
                    "sent": True,
                    "change": None,
                }
            ]
        },
    )
    for s in subjects:
        print(s, tracks[s].verdict.decision.word, [r.code for r in tracks[s].verdict.reasons][:3])  # type: ignore[union-attr]


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "web" / "fixtures")
