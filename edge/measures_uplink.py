"""Days of measures to HTTP PUTs, after the episodes and before raw data; what is wrong with them holds up neither."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from kinedge.edge.answers import Fate, Outcome, judge
from kinedge.edge.measures_outbox import MeasuresOutbox, OutgoingDay

__all__ = ["MeasuresSender", "put_headers"]

Request = Callable[[str, str, dict[str, str], bytes], Awaitable[tuple[int, Mapping[str, str], bytes]]]

_OLD_COLLECTOR_S: Final = 3600.0  # one that knows no measures is asked again after so long
_MAX_BACKOFF_S: Final = 300.0
_BATCH: Final = 16


def put_headers(media_type: str, body: bytes) -> dict[str, str]:
    """Return the headers of a PUT, with the digest by which damage on the way is seen."""
    digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
    return {"Content-Type": media_type, "Content-Digest": f"sha-256=:{digest}:"}


class MeasuresSender:
    """Sends the days of one outbox.

    Parameters
    ----------
    outbox
        Of the gateway's store.
    base_url
        Of the collector, without a slash at the end.
    request
        ``(method, url, headers, body)`` to status, headers and answer.
    timeout_s
        For one answer.
    monotonic_ns, rng
        Clock and source of jitter.
    """

    def __init__(
        self,
        outbox: MeasuresOutbox,
        base_url: str,
        request: Request,
        *,
        timeout_s: float,
        monotonic_ns: Callable[[], int],
        rng: random.Random,
    ) -> None:
        self._outbox, self._base, self._request = outbox, base_url, request
        self._timeout_s, self._monotonic_ns, self._rng = timeout_s, monotonic_ns, rng
        self._resume_at_ns = 0
        self._held: dict[str, tuple[int, int]] = {}  # by id: failures, and not before when
        self.n_sent = 0

    async def step(self) -> list[Outcome]:
        """Send what is due; return what became of each. A link that failed ends the step.

        Raises
        ------
        StoreError
            The store cannot be read or written.
        """
        now = self._monotonic_ns()
        if now < self._resume_at_ns:
            return []
        days = await asyncio.to_thread(self._outbox.due)
        self._held = {d.id: self._held[d.id] for d in days if d.id in self._held}
        outcomes: list[Outcome] = []
        for day in [d for d in days if self._held.get(d.id, (0, 0))[1] <= now][:_BATCH]:
            outcome = await self._send(day)
            if outcome is None:
                continue
            outcomes.append(outcome)
            if outcome.fate in (Fate.SENT, Fate.DUPLICATE):
                self.n_sent += 1
                await asyncio.to_thread(self._outbox.ack, day)
            elif outcome.fate is Fate.REFUSED:
                await asyncio.to_thread(self._outbox.quarantine, day, outcome.reason)
            elif outcome.fate is Fate.LINK_FAILED or now < self._resume_at_ns:
                break
            else:
                failures = self._held.get(day.id, (0, 0))[0]
                wait_s = self._rng.uniform(0, min(_MAX_BACKOFF_S, 2.0 ** min(failures, 20)))
                self._held[day.id] = (failures + 1, self._monotonic_ns() + int(wait_s * 1e9))
        return outcomes

    async def _send(self, day: OutgoingDay) -> Outcome | None:
        """Try one PUT and judge the answer; None when the row is no longer wanted."""
        import httpx

        body = await asyncio.to_thread(self._outbox.body, day)
        if body is None:
            return None
        try:
            status, headers, answer = await asyncio.wait_for(
                self._request("PUT", f"{self._base}/v1/measures/{day.id}", put_headers("application/json", body), body),
                self._timeout_s,
            )
        except asyncio.TimeoutError:
            return Outcome(Fate.LINK_FAILED, f"no answer within {self._timeout_s:g} s")
        except (httpx.HTTPError, OSError) as e:
            return Outcome(Fate.LINK_FAILED, f"{type(e).__name__}: {e}")
        if status in (404, 405):  # episodes went through, so the way is right: a collector of before
            self._resume_at_ns = self._monotonic_ns() + int(_OLD_COLLECTOR_S * 1e9)
            return Outcome(Fate.ROW_FAILED, f"{status}: this collector takes no measures; update it")
        return judge(day.id, "episode", status, headers, answer)
