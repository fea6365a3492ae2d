"""Parts of the edge service, made as its configuration says: recording, measures, and who looks after the store."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from kinedge.edge.caretaker import Caretaker
from kinedge.edge.config import GatewayConfig
from kinedge.edge.episode_follower import provenance
from kinedge.edge.hostclock import HostClock
from kinedge.edge.people import People
from kinedge.edge.scoring import Scorer
from kinedge.edge.store import EpisodeStore
from kinedge.edge.verdict import Basis
from kinedge.edge.verdict_json import basis_fields

if TYPE_CHECKING:
    from kinedge.edge.lsl_streams import LslStreams
    from kinedge.edge.measures_keeper import MeasuresKeeper
    from kinedge.edge.ring import Gone
    from kinedge.edge.tape import Tape
    from kinedge.edge.uplink import Uplink

__all__ = ["make_caretaker", "make_lsl", "make_measures", "make_tape", "make_uplink", "tape_facts"]

Note = Callable[[str], None]


def make_lsl(config: GatewayConfig, people: People) -> LslStreams | None:
    """Return the LSL streams that are sent and heard, or None."""
    if config.lsl is None:
        return None
    from kinedge.edge.lsl_streams import LslStreams

    return LslStreams(config.lsl, gateway=config.gateway, subjects=people.subjects)


def make_uplink(config: GatewayConfig, store: EpisodeStore) -> Uplink | None:
    """Return what sends episodes upstream, or None.

    Raises
    ------
    ConfigError
        Token or certificate cannot be read, or the certificate is of another gateway.
    """
    if config.uplink is None:
        return None
    from kinedge.edge.uplink import open_uplink

    return open_uplink(store, config.uplink, gateway=config.gateway)


def make_measures(config: GatewayConfig, store: EpisodeStore, *, clock: HostClock, note: Note) -> MeasuresKeeper | None:
    """Measure the people of a gateway, if that is wanted."""
    if config.measures is None:
        return None
    from kinedge.edge.measures_keeper import MeasuresKeeper

    return MeasuresKeeper(
        store,
        config.measures,
        {p.subject: p.affected for p in config.people},
        site=config.site,
        gateway=config.gateway,
        config_digest=config.digest(),
        clock=clock,
        note=note,
    )


def make_tape(config: GatewayConfig, scorer: Scorer, people: People, *, clock: HostClock, note: Note) -> Tape | None:
    """Record what is heard, if that is wanted.

    Raises
    ------
    ConfigError, StoreError
        pyarrow is missing, or nothing can be written there.
    """
    if config.record is None:
        return None
    from kinedge.edge.tape import Tape

    return Tape(
        config.record.folder,
        {subject: tape_facts(config, scorer, basis) for subject, basis in people.by_subject()},
        segment_s=config.record.segment_s,
        clock=clock,
        note=note,
    )


def tape_facts(config: GatewayConfig, scorer: Scorer, basis: Basis) -> dict[str, Any]:
    """Return what is kept with the recording of a person."""
    runs_on = {"backend": scorer.engine.backend.name, "backends": list(config.backend)}
    general = {"gateway": config.gateway, **provenance(scorer, config), **runs_on}
    return {**general, **basis_fields(basis), "settings": config.decisive()}


def make_caretaker(config: GatewayConfig, store: EpisodeStore, tape: Tape | None, *, note: Note) -> Caretaker:
    """Look after the store, and after old recordings."""

    def trim() -> list[Gone]:
        record = config.record
        if record is None or tape is None:
            return []
        from kinedge.edge.ring import trim_recordings

        budget_bytes = round(record.budget_mb * 1e6)
        return trim_recordings(
            record.folder, keep_hours=record.keep_hours, budget_bytes=budget_bytes, current=tape.folder
        )

    prune = partial(
        store.prune,
        older_than_s=config.keep_sent_days * 86_400,
        episodes_older_than_s=config.keep_episodes_days * 86_400,
        max_sent_episodes=config.max_sent_episodes,
    )
    return Caretaker(store, prune=prune, note=note, trim=trim)
