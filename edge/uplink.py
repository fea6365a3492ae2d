"""The way upstream: outbox rows to HTTP PUTs, at least once, until the collector has committed each.

`Uplink.step` does one round and says how long to wait before the next; `Uplink.run` is the loop around it.
SQLite waits for the disk, so its calls run in threads; the event loop never does.
"""

from __future__ import annotations

import asyncio
import importlib
import ipaddress
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, urlsplit

from kinedge.edge.answers import Fate, Outcome, judge
from kinedge.edge.config import UplinkConfig
from kinedge.edge.measures_outbox import MeasuresOutbox
from kinedge.edge.measures_uplink import MeasuresSender, put_headers
from kinedge.edge.outbox import OutboxRow
from kinedge.edge.pieces import send_in_pieces
from kinedge.edge.store import EpisodeStore
from kinedge.errors import ConfigError, LinkError, StoreError

if TYPE_CHECKING:
    import httpx

    from kinedge.edge.gateway_identity import GatewayIdentity

__all__ = ["StepResult", "Uplink", "UplinkCounters", "UplinkLimits", "open_uplink"]

_MAX_ANSWER_BYTES: Final = 1 << 16


@dataclass(frozen=True)
class UplinkLimits:
    """How patient and how greedy the uplink is.

    While more than ``newest_first_above`` episodes wait, the newest go first. A raw blob larger than ``piece_bytes``
    goes in pieces of that size. ``raw_bytes_per_day`` holds back raw blobs, never episodes.
    """

    batch: int = 16
    request_timeout_s: float = 30.0
    poll_s: float = 1.0
    first_backoff_s: float = 1.0
    max_backoff_s: float = 300.0
    max_retry_after_s: float = 3600.0
    newest_first_above: int = 512
    piece_bytes: int = 256 << 10
    raw_bytes_per_day: int | None = None
    renew_again_s: float = 3600.0


@dataclass(frozen=True)
class UplinkCounters:
    """What happened since the start: to episodes and raw blobs, and days of ``measures`` that arrived."""

    sent: int = 0
    duplicates: int = 0
    retries: int = 0
    quarantined: int = 0
    last_success_utc_ns: int | None = None
    last_error: str | None = None
    measures: int = 0


@dataclass(frozen=True)
class StepResult:
    """What one step did, and how long to wait before the next (0: there may be more to do now)."""

    sent: int
    duplicates: int
    retries: int
    quarantined: int
    wait_s: float


class Uplink:
    """Send what is in a store's outbox to a collector.

    Parameters
    ----------
    store
        Open for writing.
    base_url
        Of the collector, such as ``https://collector.example``.
    client
        One of your own, for instance with a client certificate; it is not closed here.
    token
        Bearer token. Off this machine it is sent over https alone.
    identity
        The gateway's certificate. It is shown to the collector, and renewed when two thirds of its life are over.
    limits
        Time-outs, back-off, batch.
    monotonic_ns, wall_clock_ns, rng
        Clocks and the source of jitter.

    Raises
    ------
    ConfigError
        ``base_url`` is none, or would carry the token in the clear, or has no https for a certificate.
    """

    def __init__(
        self,
        store: EpisodeStore,
        base_url: str,
        *,
        client: httpx.AsyncClient | None = None,
        token: str | None = None,
        identity: GatewayIdentity | None = None,
        limits: UplinkLimits | None = None,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        wall_clock_ns: Callable[[], int] = time.time_ns,
        rng: random.Random | None = None,
    ) -> None:
        url = _checked_url(base_url)
        local = _is_loopback(url.hostname or "")
        if token is not None and url.scheme == "http" and not local:
            raise ConfigError(f"{base_url}: this would send the token in the clear; use https")
        if identity is not None and url.scheme != "https":
            raise ConfigError(f"{base_url}: a gateway with a certificate needs https")
        self.limits = limits or UplinkLimits()
        self.identity = identity
        self.counters = UplinkCounters()
        self._store = store
        self._outbox = store.outbox
        self._base = url.geturl().rstrip("/")
        self._headers = {"Accept-Encoding": "identity"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        self._owns_client = client is None
        self._local = local
        self._client = client
        if client is None and identity is not None:  # a certificate that is of no use is told at once
            self._client = self._connect()
        self._monotonic_ns = monotonic_ns
        self._wall_clock_ns = wall_clock_ns
        self._rng = rng or random.Random()
        self._link_failures = 0
        self._resume_at_ns = 0
        self._renew_at_ns = 0
        self._raw_level = float(self.limits.raw_bytes_per_day or 0)
        self._raw_level_at_ns = monotonic_ns()
        self._measures = MeasuresSender(
            MeasuresOutbox(store.database),
            self._base,
            self._request,
            timeout_s=self.limits.request_timeout_s,
            monotonic_ns=monotonic_ns,
            rng=self._rng,
        )

    async def __aenter__(self) -> Uplink:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        if self._owns_client and self._client is not None:
            await self._client.aclose()

    async def run(self, stop: asyncio.Event) -> None:
        """Step until ``stop`` is set. Neither a dead network nor a full disk ends it."""
        await asyncio.to_thread(importlib.import_module, "httpx")  # its tenth of a second holds up no verdict
        while not stop.is_set():
            try:
                wait_s = (await self.step()).wait_s
            except StoreError as e:
                self.counters = replace(self.counters, last_error=str(e))
                wait_s = self.limits.max_backoff_s
            if wait_s > 0:
                try:
                    await asyncio.wait_for(stop.wait(), wait_s)
                except asyncio.TimeoutError:
                    continue

    async def step(self) -> StepResult:
        """Claim what is due and send it: a batch of episodes, or else days of measures, or else one raw blob.

        Raises
        ------
        StoreError
            The store cannot be read or written. Nothing is lost: what was claimed becomes due again.
        """
        before = self.counters
        pause_s = (self._resume_at_ns - self._monotonic_ns()) / 1e9
        if pause_s > 0:
            return self._result(before, pause_s)
        await self._renew_if_due()
        limits, now = self.limits, self._monotonic_ns()
        rows = await asyncio.to_thread(
            self._outbox.claim,
            now,
            kinds=("episode",),
            limit=limits.batch,
            newest_first_above=limits.newest_first_above,
        )
        if not rows and await self._send_measures():
            return self._result(before, max(0.0, (self._resume_at_ns - self._monotonic_ns()) / 1e9))
        if not rows and self._raw_allowed():
            rows = await asyncio.to_thread(self._outbox.claim, now, kinds=("raw",), limit=1)
        if not rows:
            return self._result(before, self.limits.poll_s)
        await self._send_all(rows)
        pause_s = (self._resume_at_ns - self._monotonic_ns()) / 1e9
        return self._result(before, max(0.0, pause_s))

    async def _send_measures(self) -> bool:
        """Send days of measures; say whether there were any."""
        outcomes = await self._measures.step()
        counters = replace(self.counters, measures=self._measures.n_sent)
        for outcome in outcomes:
            if outcome.fate in (Fate.SENT, Fate.DUPLICATE):
                self._link_failures = 0
                counters = replace(counters, last_success_utc_ns=self._wall_clock_ns())
                continue
            counters = replace(counters, last_error=f"measures: {outcome.reason}")
            if outcome.fate is Fate.LINK_FAILED:
                delay_s = self._pause(outcome, self._link_failures)
                self._link_failures += 1
                self._resume_at_ns = self._monotonic_ns() + int(delay_s * 1e9)
        self.counters = counters
        return bool(outcomes)

    async def _send_all(self, rows: list[OutboxRow]) -> None:
        """Send in order; after a failure let go of what must not overtake the failed row."""
        waiting = list(rows)
        try:
            while waiting:
                row = waiting[0]
                outcome = await self._send(row)
                waiting.remove(row)
                await self._settle(row, outcome)
                if outcome.fate is Fate.LINK_FAILED:
                    return
                if outcome.fate is Fate.ROW_FAILED:
                    held = [r for r in waiting if (r.gateway, r.subject) == (row.gateway, row.subject)]
                    waiting = [r for r in waiting if r not in held]
                    await asyncio.to_thread(self._outbox.release, held)
        finally:
            if waiting:
                await asyncio.to_thread(self._outbox.release, waiting)

    async def _send(self, row: OutboxRow) -> Outcome:
        """Try one PUT and judge the answer."""
        import httpx

        body = await asyncio.to_thread(self._outbox.body, row)
        if body is None:
            return Outcome(Fate.REFUSED, "the raw budget took it before it was sent")
        url = f"{self._base}/v1/episodes/{row.episode_id}" + ("/raw" if row.kind == "raw" else "")
        limits = self.limits
        if row.kind == "raw" and limits.raw_bytes_per_day is not None:
            self._raw_level -= len(body)
        headers = put_headers("application/json" if row.kind == "episode" else "application/octet-stream", body)
        try:
            if row.kind == "raw" and len(body) > limits.piece_bytes:
                outcome = await send_in_pieces(
                    self._request,
                    f"{self._base}/v1/episodes/{row.episode_id}",
                    row.episode_id,
                    body,
                    piece_bytes=limits.piece_bytes,
                    timeout_s=limits.request_timeout_s,
                )
                if outcome is not None:
                    return outcome
            status, answer_headers, answer = await asyncio.wait_for(
                self._request("PUT", url, headers, body), limits.request_timeout_s
            )
        except asyncio.TimeoutError:
            return Outcome(Fate.LINK_FAILED, f"no answer within {limits.request_timeout_s:g} s")
        except (httpx.HTTPError, OSError) as e:
            return Outcome(Fate.LINK_FAILED, f"{type(e).__name__}: {e}")
        return judge(row.episode_id, row.kind, status, answer_headers, answer)

    async def _request(
        self, method: str, url: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, httpx.Headers, bytes]:
        answer = b""
        headers = self._headers | headers
        if self._client is None:
            self._client = await asyncio.to_thread(self._connect)
        async with self._client.stream(method, url, content=body, headers=headers) as response:
            async for chunk in response.aiter_raw():
                answer += chunk
                if len(answer) > _MAX_ANSWER_BYTES:
                    break
        return response.status_code, response.headers, answer[:_MAX_ANSWER_BYTES]

    def _connect(self) -> httpx.AsyncClient:
        import httpx

        verify = True if self.identity is None else self.identity.ssl_context()
        # A proxy of the environment is for the way out, not for this machine.
        return httpx.AsyncClient(verify=verify, timeout=self.limits.request_timeout_s, trust_env=not self._local)

    def _raw_allowed(self) -> bool:
        """Refill the day's budget of raw bytes, and say whether anything is left of it."""
        per_day = self.limits.raw_bytes_per_day
        if per_day is None:
            return True
        now = self._monotonic_ns()
        gained = (now - self._raw_level_at_ns) / 86_400e9 * per_day
        self._raw_level, self._raw_level_at_ns = min(per_day, self._raw_level + gained), now
        return self._raw_level > 0

    async def _renew_if_due(self) -> None:
        """Get a new certificate before the old one ends; when that fails, the old one goes on."""
        identity, now = self.identity, self._monotonic_ns()
        if identity is None or now < self._renew_at_ns or not identity.renewal_due(self._wall_clock_ns()):
            return
        self._renew_at_ns = now + int(self.limits.renew_again_s * self._rng.uniform(0.5, 1) * 1e9)
        try:
            self.identity = await asyncio.to_thread(identity.renew, self._base)
        except (ConfigError, LinkError) as e:
            self.counters = replace(self.counters, last_error=f"certificate not renewed: {e}")
            return
        if self._owns_client:
            old, self._client = self._client, self._connect()
            if old is not None:
                await old.aclose()

    async def _settle(self, row: OutboxRow, outcome: Outcome) -> None:
        """Write the outcome down, in the outbox and in the counters."""
        counters = self.counters
        if outcome.fate in (Fate.SENT, Fate.DUPLICATE):
            await asyncio.to_thread(self._outbox.ack, row)
            self._link_failures = 0
            self.counters = replace(
                counters,
                sent=counters.sent + (outcome.fate is Fate.SENT),
                duplicates=counters.duplicates + (outcome.fate is Fate.DUPLICATE),
                last_success_utc_ns=self._wall_clock_ns(),
            )
            return
        reason = f"{row.kind} {row.episode_id[:12]}: {outcome.reason}"
        if outcome.fate is Fate.REFUSED:
            await asyncio.to_thread(self._outbox.quarantine, row, outcome.reason)
            self._link_failures = 0
            self.counters = replace(counters, quarantined=counters.quarantined + 1, last_error=reason)
            return
        if outcome.fate is Fate.UNKNOWN_EPISODE:
            await asyncio.to_thread(self._outbox.resend_episode, row, reason=outcome.reason)
        delay_s = self._delay(row, outcome)
        now = self._monotonic_ns()
        if outcome.fate is Fate.LINK_FAILED:
            self._link_failures += 1
            self._resume_at_ns = now + int(delay_s * 1e9)
        await asyncio.to_thread(self._outbox.retry, row, now_monotonic_ns=now, delay_s=delay_s, error=outcome.reason)
        self.counters = replace(counters, retries=counters.retries + 1, last_error=reason)

    def _delay(self, row: OutboxRow, outcome: Outcome) -> float:
        failures = self._link_failures if outcome.fate is Fate.LINK_FAILED else row.attempts - 1
        return self._pause(outcome, failures)

    def _pause(self, outcome: Outcome, failures: int) -> float:
        """Exponential back-off with full jitter; what the collector asks for comes first."""
        limits = self.limits
        if outcome.retry_after_s is not None:
            return min(outcome.retry_after_s, limits.max_retry_after_s) + self._rng.uniform(0, limits.first_backoff_s)
        return self._rng.uniform(0, min(limits.max_backoff_s, limits.first_backoff_s * 2.0 ** min(failures, 60)))

    def _result(self, before: UplinkCounters, wait_s: float) -> StepResult:
        now = self.counters
        return StepResult(
            now.sent - before.sent,
            now.duplicates - before.duplicates,
            now.retries - before.retries,
            now.quarantined - before.quarantined,
            wait_s,
        )


def open_uplink(store: EpisodeStore, config: UplinkConfig, *, gateway: str) -> Uplink:
    """Make the uplink that a gateway's configuration asks for.

    Raises
    ------
    ConfigError
        Token or certificate cannot be read, or the certificate is of another gateway.
    """
    identity = None
    if config.identity is not None:
        from kinedge.edge.gateway_identity import GatewayIdentity

        identity = GatewayIdentity.load(config.identity)
        if identity.gateway != gateway:
            raise ConfigError(
                f"uplink.identity {config.identity}: the certificate is of {identity.gateway}, and this is {gateway}; "
                f"enrol it under its own name: kinedge enroll-gateway"
            )
    limits = UplinkLimits(raw_bytes_per_day=config.raw_bytes_per_day)
    return Uplink(store, config.url, token=config.token(), identity=identity, limits=limits)


def _checked_url(base_url: str) -> SplitResult:
    try:
        url = urlsplit(base_url)
        _ = url.port  # read, because only reading it looks at it
    except ValueError as e:
        raise ConfigError(f"{base_url!r} is no URL ({e}); write it like https://collector.example") from e
    if url.scheme not in ("http", "https") or not url.hostname or url.query or url.fragment:
        raise ConfigError(f"{base_url!r} is no collector's address; write it like https://collector.example")
    return url


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
