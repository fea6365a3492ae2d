"""A model that passed its self-test and fails in service is taken back by itself; one that does well is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tuf", reason="the roll-out needs the extra 'rollout'")

import onnx
from onnx import helper, numpy_helper
from rollout_site import Follower, Site, served

from kinedge.arrays import arrays_from_npz, arrays_to_npz
from kinedge.bundle import Bundle, read_bundle
from kinedge.edge.backends import OnnxBackend
from kinedge.edge.config import DEFAULT_BUNDLE
from kinedge.edge.offline import hops
from kinedge.edge.pipeline import Scored
from kinedge.edge.scoring import Scorer
from kinedge.edge.store import EpisodeStore
from kinedge.edge.trial import Conduct, judge_conduct
from kinedge.firmware_bridge.replay import play_on_ptys
from kinedge.recording import Recording
from kinedge.training.scenario import DemoEvent, demo_recording


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with served(tmp_path) as site:
        yield site


def never_decides(parts: dict[str, bytes]) -> None:
    """Likelihood ratios that say nothing: the self-test is made with them, too, and passes."""
    arrays = arrays_from_npz(parts["calibration.npz"], where="here")
    for name in ("likelihood", "coordination_likelihood"):
        arrays[name] = np.zeros_like(arrays[name])
    parts["calibration.npz"] = arrays_to_npz(arrays)


def breaks_when_it_gets_rough(parts: dict[str, bytes]) -> None:
    """Looks up a table of one row by how large a sample is; the movement of the self-test is never so large."""
    model = onnx.load_from_string(parts["model.fp32.onnx"])
    graph = model.graph
    constants = {"fifth": np.float32(0.2), "table": np.zeros(1, np.float32)}
    graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items())
    mu = next(n for n in graph.node if "mu" in n.output)
    mu.output[list(mu.output).index("mu")] = "mu_before"
    graph.node.extend(
        [
            helper.make_node("Abs", ["x"], ["size"]),
            helper.make_node("Mul", ["size", "fifth"], ["fifths"]),
            helper.make_node("Cast", ["fifths"], ["row"], to=onnx.TensorProto.INT64),
            helper.make_node("Gather", ["table", "row"], ["nothing"]),
            helper.make_node("Concat", ["nothing", "nothing"], ["nothing_twice"], axis=2),
            helper.make_node("Add", ["mu_before", "nothing_twice"], ["mu"]),
        ]
    )
    parts["model.fp32.onnx"] = model.SerializeToString()


class NotFinite(OnnxBackend):
    """Predicts NaN from some step on."""

    n_good = 0

    def step(self, x, mask, state):  # type: ignore[no-untyped-def]
        mu, log_sigma, after = super().step(x, mask, state)
        self.n_good -= 1
        return (mu if self.n_good >= 0 else mu * np.float32(np.nan)), log_sigma, after


def conduct_of(scorer: Scorer, recording: Recording, *, n_hops: int | None = None) -> Conduct:
    """What a model says of a recording, as a pipeline would tell it."""
    conduct, state, hop = Conduct(scorer.manifest), scorer.initial_state(1), scorer.manifest.hop
    for i, (values, valid, saturated) in enumerate(hops(recording, hop)):
        if i == n_hops:
            break
        batch, state = scorer.step(values, valid, saturated, state, end_tick=(i + 1) * hop)
        conduct.take(Scored("p", batch, 0, values, valid), batch.verdict(0))
    return conduct


@pytest.fixture(scope="module")
def walk() -> Recording:
    return demo_recording(seed=1, duration_s=100, events=())


def test_a_model_that_decides_is_kept_once_it_was_heard_long_enough(bundle: Bundle, walk: Recording) -> None:
    conduct = conduct_of(Scorer(bundle), walk.select(bundle.manifest.sensor_specs))
    assert 85 < conduct.heard_s < 100  # but for the warm-up
    assert 0 < conduct.unsure < 0.9
    assert conduct.unscored == 0
    assert judge_conduct(conduct, before=None, trial_s=80) == (True, "")
    assert judge_conduct(conduct, before=None, trial_s=600) == (False, "")


def test_predictions_that_are_not_finite_end_a_trial_early(bundle: Bundle, walk: Recording) -> None:
    backend = NotFinite(bundle)
    backend.n_good = 20
    conduct = conduct_of(Scorer(bundle, backend=backend), walk.select(bundle.manifest.sensor_specs))
    assert conduct.unscored > 0.7
    kept, why = judge_conduct(conduct, before=None, trial_s=600)
    assert not kept
    assert "could not be scored" in why


def test_a_model_that_never_decides_fails_at_once_only_where_the_one_before_did_decide(
    bundle: Bundle, walk: Recording
) -> None:
    movement = walk.select(bundle.manifest.sensor_specs)
    before = conduct_of(Scorer(bundle), movement)
    parts = dict(bundle.parts)
    never_decides(parts)
    blind = Scorer(Bundle(bundle.manifest, parts, bundle.digest))
    conduct = conduct_of(blind, movement)
    assert conduct.unsure == 1
    assert judge_conduct(conduct, before=None, trial_s=600) == (False, "")  # perhaps these people cannot be judged
    assert judge_conduct(conduct, before=conduct, trial_s=600) == (False, "")
    kept, why = judge_conduct(conduct, before=before, trial_s=600)
    assert (kept, "was unsure, and the model before" in why) == (False, True)
    kept, why = judge_conduct(conduct, before=None, trial_s=80)
    assert (kept, "was unsure" in why) == (False, True)
    assert judge_conduct(conduct_of(blind, movement, n_hops=30), before=before, trial_s=600) == (False, "")


def test_an_empty_room_proves_nothing_and_condemns_nobody(bundle: Bundle, walk: Recording) -> None:
    movement = walk.select(bundle.manifest.sensor_specs)
    silent = Recording(
        sensors=movement.sensors,
        rate_hz=movement.rate_hz,
        values=movement.values,
        valid=np.zeros_like(movement.valid),
        labels=(),
        subject="p",
        session="s",
        source="test",
        notes={},
    )
    conduct = conduct_of(Scorer(bundle), silent)
    assert (conduct.n_verdicts, conduct.heard_s) == (0, 0)
    assert judge_conduct(conduct, before=None, trial_s=10) == (False, "")


def test_what_failed_on_trial_is_refused_and_the_one_before_runs(site: Site) -> None:
    keeper, events = site.keeper()
    first = site.publish("wrists-1")
    taken = keeper.poll(running=None)
    assert taken is not None
    assert keeper.on_trial(first)
    keeper.keep(first, reason="did well")
    assert not keeper.on_trial(first)
    second = site.publish("wrists-2")
    assert keeper.poll(running=taken.scorer) is not None
    assert keeper.on_trial(second)
    assert keeper.take_back(second, reason="it broke").scorer.bundle.digest == first == keeper.versions.current
    assert not keeper.on_trial(first)
    assert keeper.poll(running=taken.scorer) is None  # it is not taken a second time
    assert events[1:] == [
        ("model_kept", "did well"),
        ("model_taken", "wrists-2"),
        ("model_refused", "it broke"),
        ("model_rolled_back", "it broke"),
    ]
    assert keeper.start().scorer.bundle.digest == first


def test_without_a_model_before_the_bundle_of_the_configuration_runs_again(site: Site) -> None:
    keeper, _ = site.keeper()
    first = site.publish("wrists-1")
    taken = keeper.poll(running=None)
    assert taken is not None
    back = keeper.take_back(first, reason="it broke")
    assert back.scorer.bundle.digest == read_bundle(DEFAULT_BUNDLE).digest
    assert keeper.versions.current is None
    assert keeper.poll(running=back.scorer) is None
    assert keeper.start().scorer.bundle.digest == read_bundle(DEFAULT_BUNDLE).digest


def test_a_model_that_takes_services_down_on_trial_is_left_at_the_next_start(site: Site) -> None:
    first = site.publish("wrists-1")
    keeper, _ = site.keeper()
    keeper.poll(running=None)
    for _ in range(2):
        assert keeper.start().scorer.bundle.digest == first
    keeper.pause_trial()  # that one ended in order: what came before it is no evidence
    for _ in range(3):
        assert site.keeper()[0].start().scorer.bundle.digest == first
    keeper, events = site.keeper()
    assert keeper.start().scorer.bundle.digest == read_bundle(DEFAULT_BUNDLE).digest
    assert "3 services with it on trial ended" in events[0][1]


def test_no_trial_where_none_is_wanted(site: Site) -> None:
    first = site.publish("wrists-1")
    keeper, _ = site.keeper(models={"trial_s": 0})
    keeper.poll(running=None)
    assert not keeper.on_trial(first)


@pytest.mark.timeout(280)
def test_a_running_gateway_leaves_models_that_fail_in_service_and_keeps_one_that_does_well(
    site: Site, tmp_path: Path
) -> None:
    speed = 6.0
    bursts = tuple(DemoEvent("noise_burst", "wrist_left", t, t + 4) for t in range(10, 1790, 20))
    devices = play_on_ptys(demo_recording(seed=1, duration_s=1800, events=bursts), tmp_path / "ttys", speed=speed)
    people = [{"subject": "p-001", "devices": [{"port": str(d.link_path)} for d in devices.values()]}]
    config = site.config(people=people, models={"trial_s": 20})
    first = site.publish("wrists-1")

    async def play() -> list[str]:
        f = Follower(config, speed=speed)
        stop = asyncio.Event()
        serving = asyncio.create_task(f.service.run(stop))
        for device in devices.values():
            device.start()

        def told(what: str, digest: str) -> Callable[[], bool]:
            return lambda: any(f"{what}: {digest[:16]}" in note for note in f.service.notes)

        try:
            await f.until(told("model kept", first), serving)
            for change in (never_decides, breaks_when_it_gets_rough):
                name = f"wrists-{change.__name__.replace('_', '-')}"
                bad = await asyncio.to_thread(partial(site.publish, name, change=change))
                await f.until(told("model refused", bad), serving)
                await f.until(told("model rolled back", first), serving)
                n = len(f.said)
                await f.until(lambda n=n: len(f.said) >= n + 5, serving)
                assert f.said[-1][0] == first
            good = await asyncio.to_thread(site.publish, "wrists-2")
            await f.until(told("model kept", good), serving)
            assert f.said[-1][0] == good
            return [note for note in f.service.notes if note.startswith("model refused")]
        finally:
            stop.set()
            await serving
            for device in devices.values():
                await asyncio.to_thread(device.stop)

    refused = asyncio.run(play())
    assert "was unsure" in refused[0]
    assert "it failed in service: onnxruntime" in refused[1]
    with EpisodeStore(config.store, read_only=True) as store:
        store.verify_audit()
        with store._database.reading() as connection:
            rows = connection.execute("SELECT event FROM audit WHERE event LIKE 'model%' ORDER BY n").fetchall()
    assert [event for event, _ in groupby(r[0] for r in rows)] == [  # what a stop interrupts is written once more
        *("model_taken", "model_kept"),
        *("model_taken", "model_refused", "model_rolled_back") * 2,
        *("model_taken", "model_kept"),
    ]
