"""Tasks that fail begin anew with their cause told; an essential one ends the service after some attempts."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable

import pytest

from kinedge.edge.logs import JsonFormatter
from kinedge.edge.progress import Progress, StageTimes
from kinedge.edge.supervisor import RestartPolicy, Supervisor
from kinedge.errors import BackendError

QUICK = RestartPolicy(first_backoff_s=0.001, max_backoff_s=0.004, max_restarts=3)


async def until(condition: Callable[[], bool]) -> None:
    async def wait() -> None:
        while not condition():
            await asyncio.sleep(0.001)

    await asyncio.wait_for(wait(), 20)


def test_a_task_that_fails_begins_anew_and_its_neighbour_goes_on() -> None:
    notes: list[str] = []
    beats = [0, 0]

    async def failing() -> None:
        beats[0] += 1
        raise ValueError(f"attempt {beats[0]}")

    async def steady() -> None:
        while True:
            beats[1] += 1
            await asyncio.sleep(0.001)

    async def main() -> Supervisor:
        supervisor = Supervisor(note=notes.append, policy=QUICK)
        supervisor.add("failing", failing)
        supervisor.add("steady", steady, essential=True)
        supervisor.start()
        stop = asyncio.Event()
        waiting = asyncio.create_task(supervisor.wait(stop))
        await until(lambda: beats[0] > 6)
        stop.set()
        await waiting
        await supervisor.stop_workers()
        return supervisor

    supervisor = asyncio.run(main())
    failed, went_on = supervisor.states
    assert failed.restarts >= 6 and failed.last_cause.startswith("ValueError: attempt")
    assert (went_on.restarts, went_on.last_cause, went_on.running) == (0, "", False)
    assert beats[1] > 1
    assert "task failing ended and begins anew in 0.001 s: ValueError: attempt 1" in notes[0]
    assert "in 0.004 s" in notes[3], "the back-off doubles up to its bound"


def test_an_essential_task_that_fails_again_and_again_ends_the_service_with_its_cause() -> None:
    attempts = []

    async def broken() -> None:
        attempts.append(1)
        raise BackendError("the backend is gone")

    async def main() -> None:
        supervisor = Supervisor(note=lambda _: None, policy=QUICK)
        supervisor.add("scorer", broken, essential=True)
        supervisor.start()
        with pytest.raises(BackendError, match="the backend is gone"):
            await supervisor.wait(asyncio.Event())
        await supervisor.stop_workers()

    asyncio.run(main())
    assert len(attempts) == QUICK.max_restarts + 1


def test_failures_long_apart_never_add_up() -> None:
    now = [0.0]
    attempts = []

    async def now_and_then() -> None:
        attempts.append(1)
        now[0] += 1000.0
        raise OSError("once in a while")

    async def main() -> None:
        supervisor = Supervisor(note=lambda _: None, policy=QUICK, monotonic_s=lambda: now[0])
        supervisor.add("scorer", now_and_then, essential=True)
        supervisor.start()
        await until(lambda: len(attempts) > 4 * QUICK.max_restarts)
        await supervisor.stop_workers()

    asyncio.run(main())


def test_a_task_that_returns_without_being_asked_to_is_begun_anew_too() -> None:
    notes: list[str] = []

    async def brief() -> None:
        return

    async def main() -> None:
        supervisor = Supervisor(note=notes.append, policy=QUICK)
        supervisor.add("brief", brief)
        supervisor.start()
        await until(lambda: len(notes) > 1)
        await supervisor.stop_workers()

    asyncio.run(main())
    assert "it returned, which it should not" in notes[0]


def test_what_drains_finishes_after_the_workers_are_gone_and_not_later_than_allowed() -> None:
    left = ["a", "b"]

    async def main() -> list[bool]:
        end = asyncio.Event()

        async def draining() -> None:
            await end.wait()
            while left:
                left.pop()
                await asyncio.sleep(0.001)

        async def for_ever() -> None:
            await asyncio.Event().wait()

        supervisor = Supervisor(note=lambda _: None)
        supervisor.add("draining", draining, drains=True)
        supervisor.add("worker", for_ever)
        supervisor.start()
        await asyncio.sleep(0)
        await supervisor.stop_workers()
        assert left == ["a", "b"]
        end.set()
        first = await supervisor.drain(timeout_s=20)
        late = Supervisor(note=lambda _: None)
        late.add("late", for_ever, drains=True)
        late.start()
        return [first, await late.drain(timeout_s=0.01)]

    assert asyncio.run(main()) == [True, False]
    assert left == []


def test_scoring_that_stands_still_is_told_and_silence_of_the_sensors_is_not() -> None:
    now = [0.0]
    progress = Progress(tick_limit_s=10, verdict_limit_s=60, monotonic_s=lambda: now[0])
    for _ in range(200):  # no sensor is worn
        now[0] += 1
        progress.ticked(n_used=0, n_verdicts=0)
    assert progress.stuck() == ""
    for n in range(59):  # samples come, and nothing comes of them
        now[0] += 1
        progress.ticked(n_used=50 * (n + 1), n_verdicts=0)
    assert progress.stuck() == ""
    now[0] += 2
    progress.ticked(n_used=4000, n_verdicts=0)
    assert "no verdict came of them" in progress.stuck()
    progress.ticked(n_used=4000, n_verdicts=1)
    assert progress.stuck() == ""
    now[0] += 11
    assert "has not looked for work for 11 s" in progress.stuck()


def test_quantiles_are_those_of_the_latest_durations_and_sums_are_those_of_all() -> None:
    times = StageTimes()
    for i in range(3000):
        times.add("a", 1.0 if i < 1976 else i / 3000)
    with times.measure("b"):
        pass
    summary = times.summary()
    assert summary["a"].count == 3000
    assert summary["a"].p50_s == pytest.approx((1976 + 511.5) / 3000)
    assert summary["a"].p99_s == pytest.approx((1976 + 1012.77) / 3000)
    assert summary["a"].sum_s > 1976
    assert 0 <= summary["b"].p50_s < 1 and summary["b"].count == 1


def test_a_json_log_line_holds_message_extra_fields_and_the_trace() -> None:
    try:
        raise ValueError("deep down")
    except ValueError as e:
        record = logging.LogRecord(
            "kinedge.edge", logging.ERROR, "x.py", 1, "task %s\nended", ("a",), (ValueError, e, None)
        )
    record.__dict__["task"] = "link"
    line = JsonFormatter().format(record)
    assert "\n" not in line
    content = json.loads(line)
    assert content["message"] == "task a\nended" and content["level"] == "error" and content["task"] == "link"
    assert "deep down" in content["trace"] and content["time"].endswith("Z")
