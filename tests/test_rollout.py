"""Roll-out: what a repository may do to a gateway, and what a gateway does with a model that does not work."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tuf", reason="the roll-out needs the extra 'rollout'")

import onnx
from onnx import numpy_helper
from rollout_site import Follower, Site, served

import kinedge.cli.models
from kinedge.arrays import arrays_from_npz, arrays_to_npz
from kinedge.bundle import read_bundle, write_bundle
from kinedge.cli import models_repository as repository
from kinedge.cli.app import main
from kinedge.edge.config import DEFAULT_BUNDLE, GatewayConfig
from kinedge.edge.enrol import EnrolmentBuilder
from kinedge.edge.model_versions import ModelVersions
from kinedge.edge.offline import score_recording
from kinedge.edge.rollout import ModelKeeper
from kinedge.edge.scoring import Scorer
from kinedge.edge.selftest import make_golden, self_test
from kinedge.edge.store import EpisodeStore
from kinedge.errors import BundleError, ConfigError, LinkError
from kinedge.firmware_bridge.replay import play_on_ptys
from kinedge.recording import Recording
from kinedge.signing import generate_key, load_signing_key, sign_archive
from kinedge.training.scenario import DemoEvent, demo_recording

_ = kinedge.cli.models
NOW = datetime.now(timezone.utc)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with served(tmp_path) as site:
        yield site


def metadata(site: Site, name: str) -> Path:
    return site.repo / "metadata" / name


def test_a_published_model_is_taken_once_and_the_one_before_is_kept(site: Site) -> None:
    first = site.publish("wrists-1")
    keeper, events = site.keeper()
    taken = keeper.poll(running=None)
    assert taken is not None
    assert taken.scorer.bundle.digest == first == keeper.versions.current
    assert taken.people.bases[0].unsigned == ()
    assert keeper.poll(running=None) is None
    second = site.publish("wrists-2")
    assert keeper.poll(running=None) is not None
    assert (keeper.versions.current, keeper.versions.previous) == (second, first)
    assert [e for e, _ in events] == ["model_taken", "model_taken"]
    assert keeper.start().scorer.bundle.digest == second


def test_expired_metadata_is_refused_and_refresh_mends_it(site: Site) -> None:
    keeper, _ = site.keeper()
    path, digest = site.bundle("wrists-1")
    repository.publish(site.repo, path, site.keys, name="wrists", now=NOW - timedelta(days=8))
    with pytest.raises(BundleError, match=r"expired .*kinedge models refresh"):
        keeper.poll(running=None)
    repository.refresh(site.repo, site.keys)
    taken = keeper.poll(running=None)
    assert taken is not None
    assert taken.scorer.bundle.digest == digest


def test_a_repository_that_is_set_back_or_frozen_is_refused(site: Site) -> None:
    site.publish("wrists-1")
    old = metadata(site, "timestamp.json").read_bytes()
    second = site.publish("wrists-2")
    new = metadata(site, "timestamp.json").read_bytes()
    keeper, _ = site.keeper()
    keeper.poll(running=None)
    metadata(site, "timestamp.json").write_bytes(old)
    with pytest.raises(BundleError, match=r"set back to an older state.*the model in use stays"):
        keeper.poll(running=None)
    assert keeper.versions.current == second
    # frozen: what was the latest once is shown for ever; its date ends that
    metadata(site, "timestamp.json").write_bytes(new)
    soon = datetime.now(timezone.utc) + timedelta(seconds=2)
    repository.refresh(site.repo, site.keys, now=soon - timedelta(days=repository.DAYS["timestamp"]))
    last = json.loads(metadata(site, "timestamp.json").read_bytes())["signed"]["expires"]
    ends = datetime.strptime(last, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    while datetime.now(timezone.utc) <= ends:
        time.sleep(0.05)
    with pytest.raises(BundleError, match="expired"):
        keeper.poll(running=None)


def flip(path: Path, at: int = -40) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))


def test_what_was_altered_under_way_is_refused(site: Site, tmp_path: Path) -> None:
    digest = site.publish("wrists-1")
    whole = {p: p.read_bytes() for p in site.repo.rglob("*") if p.is_file()}
    (target,) = (site.repo / "targets").glob("*.kinedge")
    (golden,) = (site.repo / "targets").glob("*.npz")

    def longer(path: Path) -> None:
        path.write_bytes(path.read_bytes() + b"x" * 100_000)

    for i, change in enumerate(
        (
            lambda: flip(target, 5000),
            lambda: flip(golden, 200),
            lambda: longer(target),
            lambda: flip(metadata(site, "timestamp.json"), 60),
            lambda: longer(metadata(site, "timestamp.json")),
            lambda: flip(metadata(site, "2.snapshot.json"), 60),
            lambda: flip(metadata(site, "2.targets.json"), 60),
            lambda: metadata(site, "2.targets.json").write_bytes(b"{}"),
        )
    ):
        change()
        keeper, _ = site.keeper(models={"folder": tmp_path / f"fresh-{i}"})
        with pytest.raises(BundleError, match="models from http"):
            keeper.poll(running=None)
        assert keeper.versions.current is None
        for path, content in whole.items():
            path.write_bytes(content)
    taken = keeper.poll(running=None)
    assert taken is not None
    assert taken.scorer.bundle.digest == digest


def test_a_repository_of_another_publisher_is_refused(site: Site, tmp_path: Path) -> None:
    site.publish("wrists-1")
    config = site.config()
    other = Site(tmp_path / "other", site.url)
    other.publish("wrists-1")
    os.rename(site.repo, tmp_path / "aside")
    os.rename(other.repo, site.repo)
    keeper = ModelKeeper(config, on_event=lambda *_: None)
    with pytest.raises(BundleError, match="not signed by the keys that count"):
        keeper.poll(running=None)


def test_a_server_that_is_away_is_no_refusal(site: Site) -> None:
    keeper, _ = site.keeper(models={"url": f"{site.url}/nothing"})
    with pytest.raises(LinkError, match="answers 404"):
        keeper.poll(running=None)
    keeper, _ = site.keeper(models={"url": "http://127.0.0.1:1/repo"})
    with pytest.raises(LinkError, match="cannot be reached"):
        keeper.poll(running=None)


@pytest.mark.parametrize("role", repository.ROLES)
def test_boards_follow_a_changed_key_and_the_old_one_counts_no_more(site: Site, role: str) -> None:
    site.publish("wrists-1")
    keeper, _ = site.keeper()
    keeper.poll(running=None)
    repository.rotate(site.repo, site.keys, role=role)
    second = site.publish("wrists-2")
    assert keeper.poll(running=None) is not None
    assert keeper.versions.current == second
    for half in ("", ".pub"):
        (old,) = site.keys.glob(f"{role}.pem{half}.old-*") if half else site.keys.glob(f"{role}.pem.old-*")
        old.replace(site.keys / f"{role}.pem{half}")
    if role == "root":
        repository.rotate(site.repo, site.keys, role="timestamp")
    site.publish("wrists-3")
    with pytest.raises(BundleError, match=r"not signed by the keys that count|no valid repository"):
        keeper.poll(running=None)
    assert keeper.versions.current == second


def test_a_bundle_needs_its_own_signature_besides_the_repositorys(site: Site) -> None:
    first = site.publish("wrists-1")
    keeper, events = site.keeper()
    keeper.poll(running=None)
    (site.folder / "clinic.pem").unlink()
    (site.folder / "clinic.pem.pub").rename(site.folder / "kept.pub")
    generate_key(site.folder / "clinic.pem")
    site.publish("wrists-2")  # signed by a key that the gateway does not know
    keeper, events = site.keeper(trust={"keys": [site.folder / "kept.pub"]})
    assert keeper.poll(running=None) is None
    assert events[-1][0] == "model_refused"
    assert "not trusted here" in events[-1][1]
    assert keeper.versions.current == first


def other_weights(parts: dict[str, bytes]) -> None:
    model = onnx.load_from_string(parts["model.fp32.onnx"])
    weight = next(t for t in model.graph.initializer if t.name == "head_weight")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.5) + 1, weight.name))
    parts["model.fp32.onnx"] = model.SerializeToString()


def not_finite(parts: dict[str, bytes]) -> None:
    model = onnx.load_from_string(parts["model.fp32.onnx"])
    weight = next(t for t in model.graph.initializer if t.name == "head_weight")
    weight.CopyFrom(numpy_helper.from_array(np.full_like(numpy_helper.to_array(weight), np.nan), weight.name))
    parts["model.fp32.onnx"] = model.SerializeToString()


def publish_broken(site: Site, name: str = "wrists-bad") -> str:
    """Publish a model that answers on the gateway otherwise than it did at the publisher's."""
    golden = make_golden(read_bundle(DEFAULT_BUNDLE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repository, "make_golden", lambda _: golden)
        return site.publish(name, change=other_weights)


def test_the_self_test_finds_other_weights_other_calibrations_and_what_is_not_finite(site: Site) -> None:
    shipped = read_bundle(DEFAULT_BUNDLE)
    golden = make_golden(shipped)
    self_test(Scorer(shipped), golden, precision="fp32", tolerance=1e-4)
    with pytest.raises(BundleError, match="a surprise is off by"):
        self_test(
            Scorer(read_bundle(site.bundle("a", change=other_weights)[0])), golden, precision="fp32", tolerance=0.05
        )
    bad = read_bundle(site.bundle("b", change=not_finite)[0])
    with pytest.raises(BundleError, match="not finite"):
        self_test(Scorer(bad), golden, precision="fp32", tolerance=1.0)
    with pytest.raises(BundleError, match="not finite"):
        make_golden(bad)
    arrays = arrays_from_npz(golden, where="here")
    assert np.abs(arrays["score_fp32"]).max() > 0
    for name, change in (("score_fp32", arrays["score_fp32"] + 0.2), ("values", arrays["values"][:, :3])):
        with pytest.raises(BundleError, match=r"off by|another model"):
            changed = arrays_to_npz({**arrays, name: change})
            self_test(Scorer(shipped), changed, precision="fp32", tolerance=0.05)
    with pytest.raises(BundleError, match="score_int8"):
        self_test(Scorer(shipped), golden, precision="int8", tolerance=0.05)


def test_a_model_that_fails_its_self_test_is_refused_once_and_said_once(site: Site) -> None:
    first = site.publish("wrists-1")
    keeper, events = site.keeper()
    keeper.poll(running=None)
    bad = publish_broken(site)
    for _ in range(3):
        assert keeper.poll(running=None) is None
    assert [e for e, _ in events] == ["model_taken", "model_refused"]
    assert bad in keeper.versions.read_state().refused
    assert keeper.versions.current == first


def test_a_gateway_goes_back_at_the_start_when_the_current_model_does_not_work_any_more(site: Site) -> None:
    first, _ = site.publish("wrists-1"), site.keeper()[0].poll(running=None)
    second, _ = site.publish("wrists-2"), site.keeper()[0].poll(running=None)
    keeper, events = site.keeper()
    flip(keeper.versions.bundle_path(second), 5000)
    assert keeper.start().scorer.bundle.digest == first
    assert [e for e, _ in events] == ["model_refused", "model_rolled_back"]
    assert keeper.versions.current == first
    flip(keeper.versions.bundle_path(first), 5000)
    keeper, events = site.keeper()
    assert keeper.start().scorer.bundle.digest == read_bundle(DEFAULT_BUNDLE).digest
    assert events[-1][0] == "model_rolled_back"
    assert "no other works" in events[-1][1]


def test_a_model_that_takes_the_process_down_is_not_tried_for_ever(site: Site) -> None:
    first, _ = site.publish("wrists-1"), site.keeper()[0].poll(running=None)
    second, _ = site.publish("wrists-2"), site.keeper()[0].poll(running=None)
    keeper, events = site.keeper()
    keeper.versions.write_state(tries={second: 3})  # what three deaths in its self-test leave behind
    assert keeper.start().scorer.bundle.digest == first
    assert "none ended" in events[0][1]


_SWAPPER = """
import sys
from pathlib import Path
from kinedge.edge.model_versions import ModelVersions
versions = ModelVersions(Path(sys.argv[1]))
files = {d: (versions.bundle_path(d).read_bytes(), versions.golden(d)) for d in sys.argv[2:]}
print("ready", flush=True)
while True:
    for digest, (bundle, golden) in files.items():
        versions.install(digest, bundle, golden)
        versions.write_state(staged=digest)
        versions.activate(digest)
"""


def test_kill_9_in_the_middle_of_swaps_leaves_a_model_that_works(site: Site) -> None:
    site.publish("wrists-1"), site.keeper()[0].poll(running=None)
    site.publish("wrists-2"), site.keeper()[0].poll(running=None)
    keeper, _ = site.keeper()
    both = {keeper.versions.current, keeper.versions.previous}
    rng = random.Random(3)
    for _ in range(3):
        arguments = [sys.executable, "-c", _SWAPPER, str(keeper.versions.folder), *sorted(d for d in both if d)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(rng.uniform(0, 0.05))  # where it is hit is left to luck
            process.send_signal(signal.SIGKILL)
        fresh, events = site.keeper()
        assert fresh.start().scorer.bundle.digest in both
        assert not [e for e in events if e[0] == "model_refused"]
        assert {fresh.versions.current, fresh.versions.previous} <= both


def enrolled(folder: Path, bundle: Path, recording: Recording) -> Path:
    scorer = Scorer(read_bundle(bundle))
    builder, hop = EnrolmentBuilder(scorer), scorer.manifest.hop
    for end, scores, surprise in score_recording(scorer, recording):
        rows = slice(end - hop, end)
        builder.add(scores, surprise, 0, hop=end // hop, values=recording.values[rows], valid=recording.valid[rows])
    data = builder.finish("p-001", source="test", allow_short=True, made_s=0)
    from kinedge.edge.enrolment import read_enrolment

    key = load_signing_key(folder / "clinic.pem")
    path = folder / "p-001.enrolment"
    write_bundle(path, sign_archive(data, key, kind="enrolment", digest=read_enrolment(data).digest))
    return path


def test_enrolled_people_keep_their_model_until_they_are_enrolled_with_the_new_one_or_the_cohort_is_chosen(
    site: Site, person: Callable[..., Recording]
) -> None:
    recording = person(300.0, seed=810_000)
    first = site.publish("wrists-1")
    people = [{"subject": "p-001", "enrolment": enrolled(site.folder, site.folder / "wrists-1.kinedge", recording)}]
    keeper, events = site.keeper(people=people)
    taken = keeper.poll(running=None)
    assert taken is not None
    assert taken.people.bases[0].calibration == "personal"
    second = site.publish("wrists-2")
    for _ in range(2):
        assert keeper.poll(running=None) is None
    assert [e for e, _ in events] == ["model_taken", "model_waits"]
    assert "enrol again with this model" in events[-1][1]
    assert keeper.versions.current == first
    lax, _ = site.keeper(people=people, models={"when_enrolled": "cohort", "folder": site.folder / "lax"})
    on_cohort = lax.poll(running=None)
    assert on_cohort is not None
    assert on_cohort.people.bases[0].calibration == "cohort"
    enrolled(site.folder, site.folder / "wrists-2.kinedge", recording)
    assert keeper.start().scorer.bundle.digest == second  # a restart between enrolment and look goes on as well
    assert keeper.versions.current == second


def test_a_model_of_other_sensors_waits_for_a_restart(site: Site) -> None:
    site.publish("wrists-1")
    keeper, events = site.keeper()
    taken = keeper.poll(running=None)
    assert taken is not None
    site.publish("wrists-2")
    running = taken.scorer
    running.manifest = running.manifest.model_copy(update={"hop": 25})
    assert keeper.poll(running=running) is None
    assert events[-1][0] == "model_waits"
    assert keeper.start().scorer.bundle.digest == keeper.versions.current != running.bundle.digest


@pytest.mark.timeout(280)
def test_a_running_gateway_swaps_without_losing_a_sample_refuses_a_broken_model_and_follows_a_rollback(
    site: Site, tmp_path: Path
) -> None:
    speed = 4.0
    recording = demo_recording(
        seed=1,
        duration_s=900,
        events=tuple(DemoEvent("noise_burst", "wrist_left", t, t + 8) for t in range(10, 890, 20)),
    )
    devices = play_on_ptys(recording, tmp_path / "ttys", speed=speed)
    first = site.publish("wrists-1")
    people = [{"subject": "p-001", "devices": [{"port": str(d.link_path)} for d in devices.values()]}]
    config = site.config(people=people)

    async def play() -> tuple[Follower, str]:
        f = Follower(config, speed=speed)
        stop = asyncio.Event()
        serving = asyncio.create_task(f.service.run(stop))
        for device in devices.values():
            device.start()
        try:
            await f.until(lambda: first in f.models(), serving)
            second = await asyncio.to_thread(site.publish, "wrists-2")
            await f.until(lambda: second in f.models(), serving)
            await asyncio.to_thread(publish_broken, site)
            await f.until(lambda: any("model refused" in n for n in f.service.notes), serving)
            keeper, _ = site.keeper(people=people)
            n = len(f.said)
            await f.until(lambda: len(f.said) >= n + 5, serving)
            assert f.said[-1][0] == second
            await asyncio.to_thread(keeper.roll_back)
            await f.until(lambda: f.said[-1][0] == first, serving)
        finally:
            stop.set()
            await serving
            for device in devices.values():
                await asyncio.to_thread(device.stop)
        return f, second

    f, second = asyncio.run(play())
    shipped = read_bundle(DEFAULT_BUNDLE).digest
    assert f.models() == [shipped, first, second]
    ticks = [v.end_tick for _, v in f.said]
    assert set(np.diff(ticks)) == {f.service.scorer.manifest.hop}
    assert sum(h.lost for h in f.service.health.values()) == 0
    at = next(i for i, (d, _) in enumerate(f.said) if d == second)
    assert all(max(v.sensor_missing.values()) == 0 for _, v in f.said[at : at + 1])
    with EpisodeStore(config.store, read_only=True) as store:
        store.verify_audit()
        kept = {s.envelope.model_digest for s in store.episodes()}
        with store._database.reading() as connection:
            rows = connection.execute("SELECT event FROM audit WHERE event LIKE 'model%' ORDER BY n").fetchall()
    assert [r[0] for r in rows][:3] == ["model_taken", "model_taken", "model_refused"]
    assert kept <= {shipped, first, second}


def test_after_a_first_pull_a_running_gateway_goes_back_to_its_own_bundle(site: Site) -> None:
    keeper, _ = site.keeper()
    own = keeper.start()
    first = site.publish("wrists-1")
    taken = keeper.poll(running=own.scorer)
    assert taken is not None and taken.scorer.bundle.digest == first
    keeper.roll_back()
    back = keeper.poll(running=taken.scorer)
    assert back is not None and back.scorer.bundle.digest == own.scorer.bundle.digest
    assert keeper.poll(running=back.scorer) is None  # what was taken back waits until somebody pulls


def test_the_command_line_goes_from_an_empty_repository_to_a_rollback(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    repo, keys = site.folder / "web" / "other", site.folder / "more-keys"
    ours = ["--keys", str(keys), "--json"]
    toml = site.folder / "gateway.toml"
    toml.write_text(
        f'site = "s"\ngateway = "g"\n[[people]]\nsubject = "p"\n[trust]\nkeys = ["clinic.pem.pub"]\n'
        f'[models]\nurl = "{site.url}/other"\nroot = "web/other/metadata/1.root.json"\nname = "wrists"\n'
    )

    def run(*arguments: str, code: int = 0) -> dict[str, Any]:
        assert main(["models", *arguments]) == code
        said = capsys.readouterr()
        return json.loads(said.out) if code == 0 else {"error": said.err}

    assert run("init", str(repo), *ours)["versions"]["root"] == 1
    assert "repository already" in run("init", str(repo), *ours, code=1)["error"]
    (one, first), (two, second) = site.bundle("wrists-1"), site.bundle("wrists-2")
    assert run("publish", str(repo), str(one), "--name", "wrists", *ours)["models"] == ["wrists"]
    plain = ("publish", str(repo), str(DEFAULT_BUNDLE), "--name", "plain", *ours)
    assert "sign it (kinedge sign)" in run(*plain, code=1)["error"]
    assert "nothing was taken" in run("rollback", str(toml), code=1)["error"]
    assert run("pull", str(toml), "--json")["current"] == first
    gone_back = run("rollback", str(toml), "--json")  # none was before: the file's own bundle runs again
    assert gone_back["current"] is None and list(gone_back["refused"]) == [first]
    assert gone_back["events"][-1]["model_digest"] == read_bundle(DEFAULT_BUNDLE).digest
    assert run("pull", str(toml), "--json")["current"] == first
    run("publish", str(repo), str(two), "--name", "wrists", *ours)
    assert run("refresh", str(repo), "--rotate", "root", *ours)["versions"]["root"] == 2
    assert run("refresh", str(repo), *ours)["versions"]["timestamp"] == 5
    assert run("pull", str(toml), "--json")["current"] == second
    assert run("rollback", str(toml), "--json")["current"] == first
    shown = run("status", str(toml), "--json")
    assert (shown["current"], list(shown["refused"])) == (first, [second])
    assert run("pull", str(toml), "--json")["current"] == second
    assert "there is no role" in run("refresh", str(repo), "--rotate", "king", *ours, code=1)["error"]
    assert "make a model's name" in run("publish", str(repo), str(one), "--name", "../x", *ours, code=1)["error"]


def test_versions_nobody_names_are_removed_and_a_folder_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    versions = ModelVersions(tmp_path / "models")
    for i in range(5):
        versions.install(f"{i}" * 64, b"bundle", b"golden")
        versions.activate(f"{i}" * 64)
    assert sorted(p.name[0] for p in (tmp_path / "models" / "versions").iterdir()) == ["3", "4"]
    with pytest.raises(BundleError, match="is not here"):
        versions.activate("9" * 64)
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="look at the disk"):
        ModelVersions(tmp_path / "file" / "models")
    with pytest.raises(ConfigError, match=r"no \[models\]"):
        ModelKeeper(
            GatewayConfig.model_validate({"site": "s", "gateway": "g", "people": [{"subject": "p"}]}),
            on_event=lambda *_: None,
        )
