"""People and devices that come and go while a gateway runs: its configuration is read anew, and the rest goes on.

Nothing but people, their enrolments and devices can change so; whatever else differs is refused in words, and then
nothing has changed. Verdicts about everybody who stays go on as if nothing had happened.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

from kinedge.edge.config import GatewayConfig
from kinedge.edge.service_parts import tape_facts
from kinedge.edge.trusted import load_people
from kinedge.errors import ConfigError

if TYPE_CHECKING:
    from kinedge.edge.service import EdgeService

__all__ = ["Reloaded", "reload_people"]


@dataclass(frozen=True)
class Reloaded:
    """Who and what came and went.

    Parameters
    ----------
    joined, left
        Pseudonyms.
    compared_otherwise
        Who is compared with another enrolment now, or with none.
    new_devices, gone_devices
        Where they are.
    moved_devices
        Those that are another person's now.
    """

    joined: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    compared_otherwise: tuple[str, ...] = ()
    new_devices: tuple[str, ...] = ()
    gone_devices: tuple[str, ...] = ()
    moved_devices: tuple[str, ...] = ()

    def sentence(self) -> str:
        """Say it in words."""
        parts = [
            f"{what}: {', '.join(names)}"
            for what, names in (
                ("joined", self.joined),
                ("left", self.left),
                ("compared otherwise", self.compared_otherwise),
                ("new devices", self.new_devices),
                ("devices gone", self.gone_devices),
                ("devices of another person", self.moved_devices),
            )
            if names
        ]
        return "; ".join(parts) or "nothing has changed"


async def reload_people(service: EdgeService, wanted: GatewayConfig) -> Reloaded:
    """Let people and devices be those of another configuration.

    Parameters
    ----------
    service
        Running.
    wanted
        As its file says now.

    Raises
    ------
    ConfigError
        Something else differs, too, an enrolment cannot be used, or nobody would be left. Nothing has changed then.
    """
    _refuse_other_changes(service.configured, wanted)
    if not service.is_live:
        raise ConfigError("a replay has the people it was recorded with")
    if wanted.models is not None:
        raise ConfigError("with [models], who is here is settled at the start; start the gateway anew")
    config = service.decided.applied_to(wanted, service.note)
    scorer, before = service.scorer, service.pipeline.people
    signed = not any("model" in b.unsigned for b in before.bases)
    people = await asyncio.to_thread(load_people, config, scorer, signed=signed)
    if scorer is not service.scorer:
        raise ConfigError("another model was taken meanwhile; reload once more")
    wiring, listener, pipeline = service.wiring, service.listener, service.pipeline
    change = wiring.changes(config)
    for where in change.gone | change.moved:
        wiring.take_off(where, pipeline=pipeline, listener=listener)
    digests = {s: b.enrolment_digest for s, b in before.by_subject()}
    pipeline.use_people(people)
    service.configured, service.config = wanted, config
    service.episodes.use(scorer, people, service.promises)
    new = wiring.rewire(config)
    if service.tape is not None:
        for subject, basis in people.by_subject():
            service.tape.join(subject, tape_facts(config, scorer, basis))
    for where in change.moved - change.gone:
        wiring.tell_again(where, service.hear)
    for where in sorted(change.gone):
        await service.supervisor.remove(f"link {where}")
    for where in new:
        service.supervisor.add(f"link {where}", partial(service.serve, where))
    service.supervisor.start()
    found = Reloaded(
        joined=tuple(s for s in people.subjects if s not in digests),
        left=tuple(s for s in digests if s not in people.subjects),
        compared_otherwise=tuple(
            s for s, b in people.by_subject() if s in digests and digests[s] != b.enrolment_digest
        ),
        new_devices=tuple(new),
        gone_devices=tuple(sorted(change.gone)),
        moved_devices=tuple(sorted(change.moved - change.gone)),
    )
    if service.board is not None:
        service.board.left(found.left)
    service.caretaker.record("reloaded", **asdict(found))
    if found.joined and service.measures is not None:
        service.note(f"{', '.join(found.joined)}: measured from the next start on")
    service.note(f"configuration read anew: {found.sentence()}")
    return found


def _refuse_other_changes(now: GatewayConfig, wanted: GatewayConfig) -> None:
    odd = [
        name
        for name in GatewayConfig.model_fields
        if name not in ("people", "spare", "http", "record") and getattr(now, name) != getattr(wanted, name)
    ]
    sides = {p.subject: p.affected for p in now.people}
    odd += [f"{p.subject}.affected" for p in wanted.people if sides.get(p.subject, p.affected) != p.affected]
    if odd:
        raise ConfigError(
            f"{', '.join(odd)} cannot change while the gateway runs: only people and devices can; start it anew. "
            "Nothing has changed"
        )
