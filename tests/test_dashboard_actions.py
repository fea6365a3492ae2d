"""What a person does to a running gateway: sensors change hands, a baseline is learned, alarms are muted, it stops."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from board_rig import Rig, board_config, device, running

from kinedge.bundle import read_bundle
from kinedge.cli import main
from kinedge.edge.board_state import Assigned, BoardStateFile, Enrolled, Enrolling, board_state_path
from kinedge.edge.config import DEFAULT_BUNDLE, GatewayConfig
from kinedge.edge.dashboard.errors import Refused
from kinedge.edge.dashboard.routes import Routes
from kinedge.edge.enrol import EnrolmentBuilder
from kinedge.edge.enrolment import read_enrolment
from kinedge.edge.hostclock import HostClock
from kinedge.edge.http_server import Answer, Request
from kinedge.edge.offline import hops
from kinedge.edge.pipeline import Scored
from kinedge.edge.pose_marks import frames_of_labels
from kinedge.edge.scoring import Scorer
from kinedge.edge.service import EdgeService
from kinedge.edge.store import EpisodeStore
from kinedge.edge.verdict import Verdict
from kinedge.errors import ConfigError, SignalError
from kinedge.firmware_bridge.device import DeviceInfo
from kinedge.recording import Recording
from kinedge.signals import ImuChunk
from kinedge.training.poses import PoseHabit, pose_recording
from kinedge.training.scenario import DemoEvent, demo_recording
from kinedge.training.simulate import ImuModel, SimulationConfig, simulate
from kinedge.units import NS_PER_S

Person = Callable[..., Recording]
INTERVAL = 20_000_000


def sensors_of(person: Any) -> dict[str, str | None]:
    return {s["name"]: s["where"] for s in person["sensors"] if s["state"] == "streaming"}


def fixture(name: str) -> Any:
    return json.loads((Path(__file__).parents[1] / "web" / "fixtures" / name).read_text(encoding="utf-8"))


def audit(config: GatewayConfig, event: str) -> list[dict[str, Any]]:
    with EpisodeStore(config.store, read_only=True) as store:
        return store.events(event)


class Fed:
    """A gateway that is fed by hand, packet by packet, on a clock that stands still in between."""

    def __init__(self, config: GatewayConfig, recordings: dict[str, Recording]) -> None:
        self.verdicts: dict[str, list[Verdict]] = {}
        self.service = EdgeService(config, host_clock=HostClock(), on_scored=self._take)
        self.recordings = recordings
        for where, recording in recordings.items():
            spec = next(s for s in recording.sensors if s.name == where[2:])
            wired = self.service.wiring[where]
            info = DeviceInfo(spec, 50.0, serial=where)
            self.service.hear(wired.subject, where, wired.as_worn(info))

    def _take(self, scored: Scored, verdict: Verdict) -> None:
        self.verdicts.setdefault(scored.subject, []).append(verdict)

    def play(self, start_s: int, end_s: int) -> None:
        for first in range(start_s * 50, end_s * 50, 10):
            for where, recording in self.recordings.items():
                wired, columns = self.service.wiring[where], recording.columns(where[2:])
                part = slice(first, first + 10)
                valid = recording.valid[part, columns]
                time_ns = NS_PER_S + (first + np.arange(10)) * INTERVAL
                host_ns = int(time_ns[-1]) + 3_000_000
                chunk = ImuChunk(
                    where[2:], time_ns, recording.values[part, columns], valid, ~valid, INTERVAL, host_time_ns=host_ns
                )
                self.service.hear(wired.subject, where, wired.as_worn(chunk))
            self.service._advance(NS_PER_S + (first + 10) * INTERVAL)

    def end(self) -> None:
        self.service.store.close()


@pytest.fixture
def fed(tmp_path: Path, person: Person) -> Callable[..., Fed]:
    def make(name: str, **changes: Any) -> Fed:
        people = {s: [f"{s}-wrist_left", f"{s}-wrist_right"] for s in "abc"}
        config = board_config(tmp_path / name, people, checkpoint_s=0, **changes)
        (tmp_path / name).mkdir(exist_ok=True)
        recordings = {w: person(24.0, seed=800_010 + i) for i, (s, ws) in enumerate(people.items()) for w in ws}
        return Fed(config, recordings)

    return make


def test_a_sensor_that_changes_hands_is_heard_at_the_taker_and_nobody_else_notices_a_bit(fed: Any) -> None:
    alone, handed = fed("alone"), fed("handed")
    alone.play(0, 20)
    handed.play(0, 8)
    came = handed.service.assign("a-wrist_left", "b")
    assert (came.giver, came.taker, came.displaced, came.sensor) == ("a", "b", "b-wrist_left", "wrist_left")
    handed.play(8, 20)
    assert handed.verdicts["c"] == alone.verdicts["c"]
    assert len(alone.verdicts["c"]) >= 16
    assert handed.verdicts["a"][-1].reasons[0].code == "no_data"
    assert handed.verdicts["a"][-1].reasons[0].sensor == "wrist_left"
    assert "no_data" not in {r.code for r in handed.verdicts["b"][-1].reasons}
    assert handed.service.health["b", "wrist_left"].serial == "a-wrist_left"
    assert handed.service.wiring.worn_by(None) == ["b-wrist_left"]
    with pytest.raises(ConfigError, match="b's already"):
        handed.service.assign("a-wrist_left", "b")
    with pytest.raises(ConfigError, match="no device 'x' here"):
        handed.service.assign("x", "b")
    with pytest.raises(ConfigError, match="nobody called z"):
        handed.service.assign("a-wrist_left", "z")
    alone.end()
    handed.end()


def test_a_sensor_that_nobody_wears_is_missing_and_comes_back_at_another_place(fed: Any) -> None:
    gateway = fed("g")
    gateway.play(0, 6)
    gateway.service.assign("a-wrist_left", None)
    gateway.play(6, 12)
    assert gateway.verdicts["a"][-1].reasons[0].code == "no_data"
    came = gateway.service.assign("a-wrist_left", "a", sensor="wrist_right")
    assert came.displaced == "a-wrist_right"
    gateway.play(12, 18)
    last = gateway.verdicts["a"][-1]
    assert {r.sensor for r in last.reasons if r.code == "no_data"} == {"wrist_left"}
    assert gateway.service.health["a", "wrist_right"].where == "a-wrist_left"
    gateway.end()


def test_who_wears_what_outlives_a_restart_until_the_file_says_otherwise(fed: Any, tmp_path: Path) -> None:
    first = fed("g")
    first.play(0, 3)
    first.service.assign("a-wrist_left", "b")
    first.service.decided.change(assigned=first.service.wiring.assigned)
    first.service.decided.save()
    first.end()
    again = fed("g")
    assert again.service.wiring["a-wrist_left"].subject == "b"
    assert again.service.wiring["b-wrist_left"].subject is None
    again.end()
    other = board_config(tmp_path / "g", {"a": ["x"], "b": ["a-wrist_left"]})
    edited = EdgeService(other)
    assert edited.wiring["a-wrist_left"].subject == "b", "as the file says now"
    assert any("configuration says something else now" in n for n in edited.notes)
    edited.store.close()


def test_a_state_file_that_is_none_is_put_aside_and_the_gateway_starts(tmp_path: Path) -> None:
    path = board_state_path(tmp_path / "edge.db")
    path.write_text('{"schema": "kinedge.board-state/1", "muted": {"p": "soon"}}')
    service = EdgeService(board_config(tmp_path, {"p-001": ["x"]}))
    assert any("put aside" in n for n in service.notes) and not path.exists()
    assert path.with_name(path.name + ".aside").exists()
    service.store.close()


def test_a_baseline_is_learned_on_the_board_used_at_once_and_after_a_restart(tmp_path: Path, person: Person) -> None:
    people = {"a": ["a-wrist_left", "a-wrist_right"], "b": ["b-wrist_left"]}
    config = board_config(tmp_path, people, checkpoint_s=0)
    walk = person(90.0, seed=800_030)

    async def main() -> None:
        gateway = Fed(config, dict.fromkeys(people["a"], walk))
        service, board = gateway.service, gateway.service.board
        assert board is not None
        routes = Routes(board)

        async def post(subject: str, body: Any) -> tuple[int, Any]:
            headers = {"content-type": "application/json", "x-kinedge": "1", "host": "localhost"}
            path = f"/api/people/{subject}/enrolment"
            answer = await routes.dispatch(Request("POST", path, headers=headers, body=json.dumps(body).encode()))
            assert isinstance(answer, Answer)
            return answer.status, json.loads(answer.body)

        gateway.play(0, 3)
        before = board.person("a")
        assert before["calibration"]["basis"] == "cohort" and before["enrolment"] is None
        assert (await post("a", {"action": "cancel"}))[0] == 409
        assert (await post("b", {"action": "start", "minutes": 30}))[0] == 200
        status, told = await post("a", {"action": "start", "minutes": 1})
        assert status == 200 and told["enrolment"]["state"] == "collecting" and told["enrolment"]["needed_s"] == 60
        assert (await post("a", {"action": "start", "minutes": 1}))[0] == 409
        gateway.play(3, 20)
        under_way = board.person("a")
        assert 5 < under_way["enrolment"]["seconds"] < 20
        assert under_way["calibration"]["text"]["en"] == "learning your normal: 0 of 1 minutes"
        gateway.play(20, 75)
        while board.person("a")["enrolment"]["state"] == "fitting":
            await asyncio.sleep(0.01)
        done = board.person("a")
        assert done["enrolment"]["state"] == "done", done["enrolment"]
        assert done["enrolment"]["audit"]["verdict"] == "doubtful"
        said = done["enrolment"]["audit"]["reasons"][-1]
        assert "worth only" in said["en"] and "les blocs n'en valent que" in said["fr"]
        assert done["calibration"]["basis"] == "personal" and done["promise"]["fr"].startswith("tant que")
        gateway.play(75, 85)
        assert board.person("a")["calibration"]["learned_s"] > 0
        await board.end()
        await service.caretaker.flush()
        gateway.end()

    asyncio.run(main())
    path = tmp_path / "a.enrolment"
    made = read_enrolment(path)
    assert made.manifest.short and made.signatures
    assert made.manifest.placement["wrist_left"] == "a-wrist_left a-wrist_left", "where it is, and its serial number"
    assert [e["enrolment"] for e in audit(config, "enrolled")] == [made.digest]
    assert [e["subject"] for e in audit(config, "enrolment_started")] == ["b", "a"]
    again = EdgeService(config)
    assert again.pipeline.people.enrolments["a"].digest == made.digest
    assert again.pipeline.people.bases[0].unsigned == (), "the board's own signature counts"
    assert again.board is not None
    assert again.board.enrolments.of("a")["state"] == "done"
    assert again.board.enrolments.of("b")["text"]["en"].startswith("the gateway was started anew")
    again.store.close()
    # a file that anybody changed is no longer the board's own
    data = bytearray(path.read_bytes())
    path.write_bytes(bytes(data[:-40]) + bytes(40))
    with pytest.raises(ConfigError, match="people a: "):
        EdgeService(config)


def test_a_tapped_sensor_is_found_among_all_and_given_to_a_person(tmp_path: Path) -> None:
    speed = 2.0
    r = demo_recording(seed=8, duration_s=60, events=())
    calm = r.values.copy()
    calm[:, :] = np.tile([0, 0, 9.81, 0, 0, 0], 2) + 0.05 * np.random.default_rng(1).standard_normal(calm.shape)
    tapped = calm.copy()
    for at in range(8 * 50, 60 * 50, 100):  # every two seconds
        tapped[at : at + 2, :3] += [[25.0, 10.0, 5.0], [-12.0, 4.0, 2.0]]
    still = Recording(**{**r.__dict__, "values": calm})
    knocked = Recording(**{**r.__dict__, "values": tapped})
    devices = [
        device(tmp_path, "KE-1", still, "wrist_left", speed=speed),
        device(tmp_path, "KE-2", still, "wrist_right", speed=speed),
        device(tmp_path, "KE-3", knocked, "wrist_left", speed=speed),
    ]
    worn, spare = [str(d.link_path) for d in devices[:2]], str(devices[2].link_path)
    config = board_config(tmp_path, {"p-001": worn, "p-002": []}, spare=[{"port": spare}])

    async def main() -> None:
        async with running(config, devices, speed=speed) as rig:
            state = await rig.get("/api/state")
            assert [d["where"] for d in state["spare"]] == [spare]
            await rig.until(lambda p: len(sensors_of(p)) == 2, "p-001")
            assert (await rig.post("/api/sensors/identify", {"action": "cancel"})).status_code == 409
            await rig.ok("/api/sensors/identify", {"subject": "p-002"})
            states = []
            async for kind, data in rig.events("/api/stream"):
                if kind == "identify" or (kind == "state" and data.get("identify")):
                    told = data if kind == "identify" else data["identify"]
                    states.append(told["state"])
                    known = next(e["data"] for e in fixture("stream.json") if e["event"] == "identify")
                    assert set(told) - {"at_utc_ns"} == set(known) - {"at_utc_ns"}
                    if told["state"] in ("found", "failed"):
                        assert told["where"] == spare and told["serial"] == "KE-3", told
                        assert told["text"]["en"] == "KE-3 is p-002's now (left wrist)"
                        break
            assert states[0] == "waiting"
            assert sensors_of(await rig.until(lambda p: len(sensors_of(p)) == 1, "p-002")) == {"wrist_left": spare}
            assert len(sensors_of(await rig.person("p-001"))) == 2
            # and by hand
            told = await rig.ok("/api/sensors/assign", {"where": spare, "subject": "p-001"})
            assert told["text"]["en"] == f"KE-3 is p-001's now (left wrist); {worn[0]} is nobody's"
            assert (await rig.get("/api/state"))["spare"][0]["where"] == worn[0]
            for body, status in [
                ({"where": spare, "subject": "p-001"}, 409),
                ({"where": "nowhere", "subject": "p-001"}, 404),
                ({"where": spare, "subject": "p-009"}, 404),
                ({"where": spare, "subject": "p-002", "sensor": "nose"}, 400),
            ]:
                assert (await rig.post("/api/sensors/assign", body)).status_code == status, body
            await rig.ok("/api/sensors/assign", {"where": spare, "subject": None})

    asyncio.run(main())
    rows = [(e["where"], e["giver"], e["taker"]) for e in audit(config, "assigned")]
    assert rows == [(spare, None, "p-002"), (spare, "p-002", "p-001"), (spare, "p-001", None)]
    kept = json.loads(board_state_path(config.store).read_text())["assigned"]
    assert kept == {worn[0]: {"subject": None, "sensor": None, "configured": "p-001"}}


def test_a_muted_person_raises_no_alarms_and_is_recorded_all_the_same(tmp_path: Path) -> None:
    speed = 4.0
    r = demo_recording(seed=1, duration_s=40, events=(DemoEvent("noise_burst", "wrist_right", 20, 30),))
    devices = [device(tmp_path, f"KE-{s}", r, s, speed=speed) for s in ("wrist_left", "wrist_right")]
    config = board_config(tmp_path, {"p-001": [str(d.link_path) for d in devices]})

    async def watch(rig: Rig) -> list[Any]:
        seen = []
        async for kind, data in rig.events("/api/stream"):
            if kind == "episode":
                seen.append(data)
                if data["state"] == "closed":
                    return seen
        return seen

    async def main() -> None:
        async with running(config, devices, speed=speed) as rig:
            await rig.ok("/api/sensors/identify", {"subject": "p-001", "sensor": "wrist_right"})
            assert (await rig.post("/api/sensors/identify", {"subject": "p-001"})).status_code == 409
            await rig.ok("/api/sensors/identify", {"action": "cancel"})
            assert (await rig.get("/api/state"))["identify"]["state"] == "cancelled"
            told = await rig.ok("/api/people/p-001/mute", {"minutes": 15})
            assert (await rig.person("p-001"))["muted_until_utc_ns"] == told["muted_until_utc_ns"]
            opened, closed = await asyncio.wait_for(watch(rig), 60)
            assert opened["muted"] is True and opened["state"] == "opened" and opened["end_utc_ns"] is None
            assert closed["end_utc_ns"] >= closed["start_utc_ns"] == opened["start_utc_ns"]
            assert set(opened["sentence"]) == {"en", "fr"}
            await rig.ok("/api/people/p-001/mute", {"minutes": 0})
            assert (await rig.person("p-001"))["muted_until_utc_ns"] is None
            listed: list[Any] = []
            while not listed:
                listed = (await rig.get("/api/episodes?limit=5&subject=p-001"))["episodes"]
            assert set(listed[0]) == set(fixture("episodes.json")["episodes"][0])
            assert listed[0]["sensor"] == "wrist_right" and listed[0]["start_utc_ns"] == opened["start_utc_ns"]
            for body in ({"minutes": -1}, {"minutes": 1441}, {"minutes": True}, {"minutes": "5"}, {}, {"m": 1}):
                assert (await rig.post("/api/people/p-001/mute", body)).status_code == 400
            assert (await rig.post("/api/stop", {"confirm": "gw-2"})).status_code == 400
            assert not rig.serving.done()
            await rig.ok("/api/stop", {"confirm": "gw-1"})
            await asyncio.wait_for(asyncio.shield(rig.serving), 30)

    asyncio.run(main())
    assert [e["minutes"] for e in audit(config, "muted")] == [15, 0]
    assert len(audit(config, "stopped_by_hand")) == 1


def test_to_forget_a_person_is_to_forget_what_was_decided_about_them_and_learned(tmp_path: Path) -> None:
    made, other = tmp_path / "p-001.enrolment", tmp_path / "p-002.enrolment"
    for path in (made, other):
        path.write_bytes(b"what is usual for them")
    (tmp_path / "gateway.toml").write_text(
        'site = "s"\ngateway = "g"\nstore = "edge.db"\n[[people]]\nsubject = "p-002"\ndevices = [{ port = "x" }]\n'
    )
    EpisodeStore(tmp_path / "edge.db").close()
    path = board_state_path(tmp_path / "edge.db")
    file = BoardStateFile(path, pytest.fail)
    people = {"p-001": made, "p-002": other}
    file.change(
        muted=dict.fromkeys(people, 2**62),
        enrolled={s: Enrolled(file=f, digest="0" * 64) for s, f in people.items()},
        enrolling={s: Enrolling(state="done", minutes=30) for s in people},
        assigned={"x": Assigned(subject="p-001", configured="p-002"), "y": Assigned(subject=None, configured="p-002")},
    )
    file.save()
    assert main(["forget", "p-001", "--config", str(tmp_path / "gateway.toml"), "--yes", "--json"]) == 0
    assert "p-001" not in path.read_text() and path.read_text().count("p-002") >= 4
    assert not made.exists() and other.exists()


def test_a_mute_ends_by_itself_also_after_a_restart(tmp_path: Path) -> None:
    file = BoardStateFile(board_state_path(tmp_path / "edge.db"), pytest.fail)
    file.change(muted={"p-001": 1, "p-002": 2**62})
    file.save()
    service = EdgeService(board_config(tmp_path, {"p-001": ["x"], "p-002": ["y"]}))
    assert service.board is not None
    hub = service.board.hub
    assert hub.muted_until("p-001") is None and hub.muted_until("p-002") == 2**62
    service.store.close()


def test_poses_enter_an_enrolment_and_turn_the_sensors_of_another_day(tmp_path: Path) -> None:
    config = SimulationConfig(
        duration_s=90.0, subject_seed=838_000, session_seed=1, activity_mix={"rest": 0.4, "arm": 0.6},
        imu=ImuModel(donning_deg=25.0),
    )  # fmt: skip
    habit = PoseHabit(move_s=10.0, hold_s=12.0)
    days = [replace(config, session_seed=s) for s in (1, 2)]
    (first_poses, first), (later_poses, later) = ((pose_recording(d, habit), simulate(d)) for d in days)
    joined = np.concatenate([r.values for r in (first_poses, first, later_poses, later)])
    whole = Recording(first.sensors, 50.0, joined, np.ones(joined.shape, bool), (), "a", "a", "simulated")
    wheres = ["a-wrist_left", "a-wrist_right"]
    settings = board_config(tmp_path, {"a": wheres}, checkpoint_s=0)
    fed = Fed(settings, dict.fromkeys(wheres, whole))
    board = fed.service.board
    assert board is not None
    poses_s, day_s = len(first_poses) // 50, len(first) // 50

    async def ask(action: str) -> Any:
        return await board.actions.pose({"action": action}, {"subject": "a"})

    async def main() -> None:
        with pytest.raises(Refused, match="no poses to align to"):
            await ask("start")
        await board.actions.enrolment({"action": "start", "minutes": 1.5}, {"subject": "a"})
        assert board.person("a")["can_pose"]
        await ask("start")
        with pytest.raises(Refused, match="already"):
            await ask("start")
        fed.play(0, 5)
        stand = board.person("a")["pose"]
        assert (stand["state"], stand["purpose"], stand["pose"], stand["number"]) == ("ready", "enrol", "down", 1)
        fed.play(5, poses_s + day_s)
        assert board.person("a")["pose"]["state"] == "done"
        for _ in range(600):
            if "a" in fed.service.pipeline.people.enrolments:
                break
            await asyncio.sleep(0.1)
        enrolment = fed.service.pipeline.people.enrolments["a"]
        assert enrolment.poses is not None and enrolment.poses.usable.all()
        assert fed.service.pipeline.people.bases[0].alignment == "same"  # learned here, and nothing was taken off
        # the sensors were taken off, and put on again
        start_s = poses_s + day_s
        await ask("cancel")
        await ask("start")
        with pytest.raises(SignalError, match="under way"):
            await ask("repeat")
        assert fed.service.pipeline.people.bases[0].alignment == "pending"
        fed.play(start_s, start_s + poses_s)
        found = board.person("a")["pose"]
        assert found["state"] == "done" and [s["why"] for s in found["sensors"]] == ["", ""], found
        assert all(s["error_deg"] < 15 for s in found["sensors"])
        assert "give or take" in found["sensors"][0]["text"]["en"]
        assert fed.service.pipeline.people.bases[0].alignment == "done"
        await ask("cancel")
        assert board.person("a")["pose"] is None
        with pytest.raises(Refused, match="no poses are being taken"):
            await ask("cancel")
        await board.end()
        await fed.service.caretaker.flush()

    asyncio.run(main())
    fed.end()
    rows = audit(settings, "posed")
    assert [(r["purpose"], r["state"]) for r in rows] == [("enrol", "done"), ("align", "done")]
    assert set(rows[1]["sensors"]) == {"wrist_left", "wrist_right"}


def test_a_person_who_does_as_they_are_told_is_aligned_from_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = SimulationConfig(
        duration_s=90.0, subject_seed=839_000, session_seed=1, activity_mix={"rest": 1.0},
        imu=ImuModel(donning_deg=25.0),
    )  # fmt: skip
    usual = [pose_recording(first), simulate(first)]
    scorer = Scorer(read_bundle(DEFAULT_BUNDLE))
    builder, state = EnrolmentBuilder(scorer), scorer.initial_state(1)
    for i, (values, valid, saturated) in enumerate(hops(usual[1], 50)):
        scores, surprise, state = scorer.score(values, valid, saturated, state)
        builder.add(scores, surprise, 0, hop=i, values=values[0], valid=valid[0])
    poses = frames_of_labels(usual[:1])
    assert poses is not None
    builder.take_poses(poses)
    (tmp_path / "a.enrolment").write_bytes(builder.finish("a", source="test", allow_short=True))
    later = pose_recording(replace(first, session_seed=2))
    held = {r.label.removeprefix("pose:"): later.values[r.start : r.start + 50] for r in later.labels}
    wheres = ["a-wrist_left", "a-wrist_right"]
    settings = board_config(tmp_path, {"a": wheres}, checkpoint_s=0, trust={"allow_unsigned": True})
    person = settings.people[0].model_copy(update={"enrolment": tmp_path / "a.enrolment"})
    empty = Recording(later.sensors, 50.0, np.zeros((0, 12), np.float32), np.zeros((0, 12), bool), (), "a", "a", "")
    fed = Fed(settings.model_copy(update={"people": (person,)}), dict.fromkeys(wheres, empty))
    board, server = fed.service.board, fed.service.server
    assert board is not None and server is not None

    def do(pose: str) -> None:
        n = len(fed.recordings[wheres[0]])
        values = np.concatenate([fed.recordings[wheres[0]].values, held[pose]])
        whole = replace(empty, values=values, valid=np.ones(values.shape, bool))
        fed.recordings = dict.fromkeys(wheres, whole)
        fed.play(n // 50, n // 50 + 1)

    async def live() -> None:
        serving = asyncio.create_task(server.run())
        while not server.url:
            await asyncio.sleep(0.01)
        assert await asyncio.to_thread(main, ["pose", server.url, "--subject", "nobody"]) == 1
        command = asyncio.create_task(asyncio.to_thread(main, ["pose", server.url, "--subject", "a", "--json"]))
        while not command.done():
            stand = board.posing.of("a")
            if stand is not None and stand["state"] in ("ready", "hold"):
                do(stand["pose"])
            await asyncio.sleep(0.02)
        assert command.result() == 0
        assert fed.service.pipeline.people.bases[0].alignment == "done" and board.posing.of("a") is None
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)

    asyncio.run(live())
    fed.end()
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert found["state"] == "done" and [s["why"] for s in found["sensors"]] == ["", ""]
    assert "there is nobody of this name" in told.err
    assert main(["pose", "http://127.0.0.1:9", "--subject", "a"]) == 1
    assert "no gateway's page answers there" in capsys.readouterr().err
