"""Newer models while a gateway runs: looked for in the background, taken between two hops, told in the audit trail."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from kinedge.edge.config import GatewayConfig
from kinedge.edge.people import People
from kinedge.edge.rollout import ModelKeeper, Taken
from kinedge.edge.scoring import Scorer
from kinedge.errors import BundleError, ConfigError, LinkError

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

    async def run(
        self, record: Callable[..., None], *, running: Callable[[], Scorer], use: Callable[[Scorer, People], None]
    ) -> None:
        """Look for newer models for as long as the service runs.

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
        while True:
            while self._events:
                event, detail = self._events.popleft()
                self._note(f"{event.replace('_', ' ')}: {detail.get('model_digest', '')[:16]} {detail['reason']}")
                record(event, **detail)
            await asyncio.sleep(self._keeper.poll_s)
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
                use(taken.scorer, taken.people)
