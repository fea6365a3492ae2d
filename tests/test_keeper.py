"""Drafts on their way to the disk: kept in order, coalesced, bounded, and never given up while the disk refuses."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np

from kinedge.canonical import sha256_hex
from kinedge.edge.episodes import EpisodeDraft, pack_raw
from kinedge.edge.keeper import DraftKeeper
from kinedge.edge.store import EpisodeStore
from kinedge.envelope import Envelope
from kinedge.errors import StoreError

T0 = 1_700_000_000 * 10**9


def draft(i: int, *, closed: bool, peak: float = 2.0) -> EpisodeDraft:
    raw = pack_raw(np.zeros((4, 1), np.float32), np.ones((4, 1), bool), ("a.acc_x",), start_utc_ns=T0 + i, rate_hz=50)
    fields = {
        "subject": "p",
        "sensors": ("a",),
        "start_utc_ns": T0 + i * 10**9,
        "end_utc_ns": T0 + i * 10**9 + 1,
        "ended": "as_usual",
        "peak_score": peak,
        "min_p_value": 0.01,
        "unsure_share": 0.0,
        "sentence": "x",
        "raw": {
            "sha256": sha256_hex(raw),
            "media_type": "x",
            "n_bytes": len(raw),
            "rate_hz": 50.0,
            "n_samples": 4,
            "channels": ["a.acc_x"],
            "start_utc_ns": T0,
        },
        "model_digest": "a" * 64,
        "config_digest": "b" * 64,
        "kinedge_version": "0",
    }
    return EpisodeDraft(key=f"p:{i}", fields=fields, raw=raw, closed=closed)


class RefusingStore(EpisodeStore):
    """A real store on a disk that is full for a while."""

    refuse = True
    n_refused = 0

    def save_draft(self, *args: object, **kwargs: object) -> None:
        self._maybe()
        super().save_draft(*args, **kwargs)  # type: ignore[arg-type]

    def commit(self, *args: object, **kwargs: object) -> Envelope:
        self._maybe()
        return super().commit(*args, **kwargs)  # type: ignore[arg-type]

    def _maybe(self) -> None:
        if self.refuse:
            self.n_refused += 1
            raise StoreError("no room")


def test_drafts_become_episodes_in_order(tmp_path: Path) -> None:
    async def main() -> None:
        with EpisodeStore(tmp_path / "e.db") as store:
            keeper = DraftKeeper(store, site="s", gateway="g", note=lambda _: None)
            running = asyncio.create_task(keeper.run())
            for i in range(5):
                keeper.put(draft(i, closed=False))
                keeper.put(draft(i, closed=True))
            await keeper.join()
            assert [e.envelope.sequence for e in store.episodes()] == [5, 4, 3, 2, 1]
            assert store.counts().drafts == 0
            keeper.end()
            await asyncio.wait_for(running, 5)

    asyncio.run(main())


def test_while_the_disk_refuses_the_newest_draft_waits_and_nothing_is_given_up(tmp_path: Path) -> None:
    notes: list[str] = []

    async def main() -> None:
        with RefusingStore(tmp_path / "e.db") as store:
            keeper = DraftKeeper(store, site="s", gateway="g", note=notes.append, retry_s=0.01)
            running = asyncio.create_task(keeper.run())
            for peak in range(50):
                keeper.put(draft(0, closed=False, peak=float(peak)))
            for i in range(1, 200):
                keeper.put(draft(i, closed=True))
            keeper.put(draft(0, closed=True, peak=99.0))
            while store.n_refused < 3:
                await asyncio.sleep(0.01)
            assert len(keeper._waiting) <= 200
            assert sum(len(w.draft.raw) > 0 for w in keeper._waiting.values()) <= 66
            store.refuse = False
            keeper.end()
            await asyncio.wait_for(running, 60)
            kept = [e.envelope for e in store.episodes(limit=1000)]
            assert len(kept) == 200
            (first,) = [e for e in kept if e.start_utc_ns == T0]
            assert first.peak_score == 99.0
            assert any(e.raw is None for e in kept)

    asyncio.run(main())
    assert all("no room" in n for n in notes)
