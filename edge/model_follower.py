"""Newer models while a gateway runs: looked for in the background, taken between two hops, told in the audit trail.

A new one is on trial (``kinedge.edge.trial``): where it fails, the one before takes its place by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from kinedge.edge.config import GatewayConfig
from kinedge.edge.people import People
from kinedge.edge.pipeline import Scored
from kinedge.edge.rollout import ModelKeeper, Taken
from kinedge.edge.scoring import Scorer
from kinedge.edge.trial import Conduct, judge_conduct
from kinedge.edge.verdict import Verdict
from kinedge.errors import BackendError, BundleError, ConfigError, KinedgeError, LinkError

__all__ = ["ModelFollower"]


class ModelFollower:
    """Asks a `ModelKeeper` for newer models; what goes wrong there stops nothing else.

    Parameters
    ----------
    config
        With ``models``.
    note
        Told what is worth knowing.

    Attributes
    ----------
    taken
        The model to begin with.

    Raises
    ------
    BundleError, ConfigError
        No model can be used.
    """

    def __init__(self, config: GatewayConfig, *, note: Callable[[str], None]) -> None:
        self._note = note
        self._events: deque[tuple[str, dict[str, Any]]] = deque(maxlen=100)
        self._keeper = ModelKeeper(config, on_event=lambda *event: self._events.append(event))
        self.taken: Taken = self._keeper.start()
        self._conduct = Conduct(self.taken.scorer.manifest)
        self._before: Conduct | None = None
        self._on_trial = self._keeper.on_trial(self.taken.scorer.bundle.digest)
        self._found: tuple[bool, str] = (False, "")
        self._wake = asyncio.Event()
        self._replaced: asyncio.Future[None] | None = None

    def saw(self, scored: Scored, verdict: Verdict) -> None:
        """Take what the running model says of one person; a new one is judged by it."""
        self._conduct.take(scored, verdict)
        if self._on_trial and not any(self._found):
            self._found = judge_conduct(self._conduct, before=self._before, trial_s=self._keeper.trial_s)
            if any(self._found):
                self._wake.set()

    def failed(self, error: BackendError) -> bool:
        """Take note that the running model broke; whether another takes its place, for which ``replaced`` waits."""
        if self._on_trial:
            self._found = (False, f"it failed in service: {error}")
            self._replaced = self._replaced or asyncio.get_running_loop().create_future()
            self._wake.set()
        return self._on_trial

    async def replaced(self) -> None:
        """Wait until another model runs in place of one that broke.

        Raises
        ------
        BundleError, BackendError, ConfigError
            No other works.
        """
        if self._replaced is not None:
            await self._replaced

    async def run(
        self, record: Callable[..., None], *, running: Callable[[], Scorer], use: Callable[[Scorer, People], None]
    ) -> None:
        """Look for newer models for as long as the service runs, and take back one that does not prove itself.

        Parameters
        ----------
        record
            Takes an event and its details for the audit trail.
        running
            Says what scores now.
        use
            Goes on with another.
        """
        said = ""
        try:
            while True:
                while self._events:
                    event, detail = self._events.popleft()
                    self._note(f"{event.replace('_', ' ')}: {detail.get('model_digest', '')[:16]} {detail['reason']}")
                    record(event, **detail)
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), self._keeper.poll_s)
                if self._wake.is_set():
                    self._wake.clear()
                    await self._end_trial(running().bundle.digest, use)
                    continue
                try:
                    taken = await asyncio.to_thread(self._keeper.poll, running=running())
                except (LinkError, BundleError, ConfigError) as e:
                    if str(e) != said:
                        said = str(e)
                        kind = "model_source_unreachable" if isinstance(e, LinkError) else "model_refused"
                        self._events.append((kind, {"reason": said}))
                    continue
                said = ""
                if taken is not None:
                    self._go_on(taken, use)
        finally:
            if self._on_trial:
                self._keeper.pause_trial()

    async def _end_trial(self, digest: str, use: Callable[[Scorer, People], None]) -> None:
        kept, why = self._found
        error: KinedgeError | None = None
        if kept:
            told = f"{self._conduct.heard_s:.0f} s heard, {self._conduct.unsure:.0%} of verdicts unsure"
            await asyncio.to_thread(partial(self._keeper.keep, digest, reason=told))
            self._on_trial = False
        elif why:
            try:
                taken = await asyncio.to_thread(partial(self._keeper.take_back, digest, reason=why))
            except (BundleError, BackendError, ConfigError) as e:
                self._note(f"{digest[:16]} failed on trial ({why}), and no other model works: {e}")
                self._on_trial, error = False, e
            else:
                self._go_on(taken, use)
        self._found = (False, "")  # only now: the old model may have gone on meanwhile
        waiting, self._replaced = self._replaced, None
        if waiting is not None and error is not None:
            waiting.set_exception(error)
        elif waiting is not None:
            waiting.set_result(None)

    def _go_on(self, taken: Taken, use: Callable[[Scorer, People], None]) -> None:
        use(taken.scorer, taken.people)
        self._before = None if self._on_trial else self._conduct
        self._conduct = Conduct(taken.scorer.manifest)
        self._on_trial = self._keeper.on_trial(taken.scorer.bundle.digest)
