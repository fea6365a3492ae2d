"""Enrolments of people on a running gateway: what is heard from now on is taken, fitted off the loop, and used.

It is the code of ``kinedge enrol``. While a person's baseline is learned they are compared with the cohort, also if
they had one before: scores of an enrolment must not rest on another one. When it is done, the file is signed with the
board's own key, written beside the others (nothing is overwritten), and taken between two hops; nobody else notices.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kinedge.bundle import write_bundle
from kinedge.edge.board_key import open_board_key
from kinedge.edge.board_state import Enrolled, Enrolling
from kinedge.edge.dashboard.errors import Refused
from kinedge.edge.dashboard.words import Words, audit_reasons, audit_words, both, collecting_words
from kinedge.edge.pipeline import Scored
from kinedge.edge.pose import PoseFrames
from kinedge.errors import KinedgeError
from kinedge.signing import sign_archive

if TYPE_CHECKING:
    from kinedge.edge.enrol import EnrolmentBuilder
    from kinedge.edge.enrolment import Enrolment
    from kinedge.edge.service import EdgeService

__all__ = ["EnrolmentRoom"]

_SETTLE_S: Final = 10.0  # the model has seen nothing yet of how the sensors sit without the enrolment of before
_SAID_EVERY_S: Final = 60.0


@dataclass
class _Learner:
    builder: EnrolmentBuilder
    minutes: float
    before: Enrolment | None
    skip: int
    seen_off: int
    said_s: float = 0.0
    model_digest: str = ""


class EnrolmentRoom:
    """Everybody whose baseline is learned on this board, and how the last attempts ended.

    Parameters
    ----------
    service
        The gateway.
    """

    def __init__(self, service: EdgeService) -> None:
        self._service = service
        self._learning: dict[str, _Learner] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended: dict[str, Enrolling] = {}
        for subject, last in service.decided.state.enrolling.items():
            if last.state in ("collecting", "fitting"):
                text = both(
                    "the gateway was started anew while it learned; start again",
                    "la passerelle a redémarré pendant l'apprentissage ; recommencez",
                )
                last = last.model_copy(update={"state": "failed", "text": text})
            if last.audit is not None:  # kept by a version that told reasons in English alone
                said = [both(r, r) if isinstance(r, str) else r for r in last.audit.get("reasons", ())]
                last = last.model_copy(update={"audit": {**last.audit, "reasons": said}})
            self._ended[subject] = last

    def of(self, subject: str) -> dict[str, Any] | None:
        """Return how far somebody's enrolment is, in the words of the contract; None where there is none."""
        learner = self._learning.get(subject)
        last = self._ended.get(subject)
        if learner is not None and last is None:
            usable_s, needed_s = learner.builder.usable_s, learner.minutes * 60
            return {
                "state": "collecting",
                "seconds": round(usable_s, 1),
                "recorded_s": round(learner.builder.recorded_s, 1),
                "needed_s": needed_s,
                "text": collecting_words(usable_s, needed_s),
                "audit": None,
            }
        if last is None:
            return None
        return {
            "state": last.state,
            "seconds": last.seconds,
            "recorded_s": last.recorded_s,
            "needed_s": last.minutes * 60,
            "text": dict(last.text),
            "audit": last.audit,
        }

    def start(self, subject: str, minutes: float) -> Words:
        """Begin to learn what is usual for somebody.

        Raises
        ------
        Refused
            That is going on already.
        """
        if subject in self._learning:
            raise Refused("conflict", f"{subject}: learning already; cancel it first")
        service = self._service
        before = service.pipeline.people.enrolments.get(subject)
        if before is not None:
            service.use_enrolment(subject, None)
        manifest = service.scorer.manifest
        skip = 0 if before is None else round(_SETTLE_S * manifest.rate_hz / manifest.hop)
        from kinedge.edge.enrol import EnrolmentBuilder  # a board that only watches does without

        builder = EnrolmentBuilder(service.scorer)
        self._learning[subject] = _Learner(
            builder,
            minutes,
            before,
            skip,
            service.pipeline.seen_off(subject),
            model_digest=service.scorer.bundle.digest,
        )
        self._ended.pop(subject, None)
        service.caretaker.record(
            "enrolment_started", subject=subject, minutes=minutes, replaces=None if before is None else before.digest
        )
        meanwhile = "" if before is None else "; meanwhile compared with the cohort"
        pendant = "" if before is None else " ; d'ici là, comparaison avec la cohorte"
        return both(
            f"learning what is usual for {subject}{meanwhile}",
            f"apprentissage des mouvements habituels de {subject}{pendant}",
        )

    def cancel(self, subject: str) -> Words:
        """Forget what was taken, or how the last attempt ended.

        Raises
        ------
        Refused
            There is nothing, or it is being fitted.
        """
        learner = self._learning.get(subject)
        if learner is not None and subject in self._ended:
            raise Refused("conflict", f"{subject}: being fitted just now; wait some seconds")
        if learner is None and self._ended.pop(subject, None) is None:
            raise Refused("conflict", f"{subject}: nothing is being learned")
        if learner is not None:
            del self._learning[subject]
            self._service.caretaker.record(
                "enrolment_cancelled", subject=subject, usable_s=round(learner.builder.usable_s, 1)
            )
            self._go_back(subject, learner)
        return both(f"nothing is learned of {subject} now", f"plus d'apprentissage pour {subject}")

    def saw(self, scored: Scored) -> None:
        """Take one hop; does nothing for whom nothing is learned."""
        learner = self._learning.get(scored.subject)
        if learner is None or scored.subject in self._ended:
            return
        if learner.model_digest != self._service.scorer.bundle.digest:
            self._fail(
                scored.subject, learner, both("another model runs now; start again", "le modèle a changé ; recommencez")
            )
            return
        if learner.skip > 0:
            learner.skip -= 1
            return
        learner.builder.add_scored(scored)
        if learner.builder.usable_s >= learner.minutes * 60 or learner.builder.is_full:
            self._fit_soon(scored.subject, learner)
        elif time.monotonic() - learner.said_s >= _SAID_EVERY_S:  # a restart says how far it was
            learner.said_s = time.monotonic()
            self._remember()

    def collects(self, subject: str) -> bool:
        """Whether somebody's movement is being taken just now."""
        return subject in self._learning and subject not in self._ended

    def take_poses(self, subject: str, poses: PoseFrames) -> None:
        """Take guided poses into the enrolment that is being learned.

        Raises
        ------
        Refused
            Nothing is being learned.
        SignalError
            No sensor pointed otherwise in one pose than in the other.
        """
        if not self.collects(subject):
            raise Refused("conflict", f"{subject}: nothing is being learned")
        self._learning[subject].builder.take_poses(poses)

    def forget(self, subjects: Iterable[str]) -> None:
        """Keep nothing of people who left."""
        for subject in subjects:
            self._learning.pop(subject, None)
            self._ended.pop(subject, None)

    async def end(self) -> None:
        """Leave what is going on: it begins anew after a restart."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _fit_soon(self, subject: str, learner: _Learner) -> None:
        text = both("learned; being worked out", "appris ; calcul en cours")
        self._ended[subject] = self._stand("fitting", learner, text)
        task = asyncio.create_task(self._fit(subject, learner), name=f"enrolment {subject}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _fit(self, subject: str, learner: _Learner) -> None:
        from kinedge.edge.enrol import MIN_USABLE_S

        service = self._service
        await self.save()
        placement = {h.sensor: f"{h.where} {h.serial}".strip() for (s, _), h in service.health.items() if s == subject}
        try:
            data = await asyncio.to_thread(
                learner.builder.finish,
                subject,
                source=f"live: {service.config.gateway}",
                placement=placement,
                allow_short=learner.minutes * 60 < MIN_USABLE_S,
            )
            enrolment, path, signer = await asyncio.to_thread(self._keep, subject, data)
            service.use_enrolment(subject, enrolment)
            if service.pipeline.seen_off(subject) == learner.seen_off:
                service.pipeline.people.same_wearing(subject)
        except (KinedgeError, ValueError, ArithmeticError, MemoryError) as e:
            self._fail(subject, learner, both(f"failed: {e}", f"échec : {e}"))
            return
        audit = enrolment.manifest.audit
        configured = next((p.enrolment for p in service.configured.people if p.subject == subject), None)
        text = both(
            "learned: compared with their own enrolment from now on",
            "appris : comparaison avec sa propre référence à partir de maintenant",
        )
        found = {"verdict": audit.verdict, "text": audit_words(audit), "reasons": audit_reasons(audit)}
        self._ended[subject] = self._stand("done", learner, text, audit=found)
        del self._learning[subject]
        enrolled = {
            **service.decided.state.enrolled,
            subject: Enrolled(file=path, digest=enrolment.digest, configured=configured),
        }
        service.decided.change(enrolled=enrolled)
        service.caretaker.record(
            "enrolled",
            subject=subject,
            enrolment=enrolment.digest,
            replaces=None if learner.before is None else learner.before.digest,
            file=str(path),
            signed_by=signer,
            usable_s=round(learner.builder.usable_s, 1),
            audit=audit.verdict,
        )
        service.note(f"{subject}: enrolled on the board, {path.name}; {audit.sentence()}")
        await self.save()
        self._changed(subject)

    def _keep(self, subject: str, data: bytes) -> tuple[Enrolment, Path, str]:
        """Sign it, write it where nothing is yet, and read it as anybody would; blocks for the disk."""
        from kinedge.edge.enrolment import read_enrolment

        config = self._service.config
        enrolment = read_enrolment(data)
        key = open_board_key(config.store)
        data = sign_archive(data, key, kind="enrolment", digest=enrolment.digest)
        own = [p.enrolment for p in config.people if p.subject == subject and p.enrolment is not None]
        others = [p.enrolment for p in config.people if p.enrolment is not None]
        folder = (own + others)[0].parent if own or others else config.store.parent
        path = folder / f"{subject}.enrolment"
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        for suffix in (f"-{stamp}", *(f"-{stamp}-{i}" for i in range(2, 100))):
            if not path.exists():
                break
            path = folder / f"{subject}{suffix}.enrolment"
        write_bundle(path, data)
        return read_enrolment(path), path, key.verify_key.key_id

    def _fail(self, subject: str, learner: _Learner, text: Words) -> None:
        self._ended[subject] = self._stand("failed", learner, text)
        self._learning.pop(subject, None)
        self._service.caretaker.record("enrolment_failed", subject=subject, reason=text["en"][:400])
        self._go_back(subject, learner)

    def _go_back(self, subject: str, learner: _Learner) -> None:
        """Compare with the enrolment of before again."""
        if learner.before is not None and subject in self._service.pipeline.subjects:
            try:
                self._service.use_enrolment(subject, learner.before)
            except KinedgeError as e:
                self._service.note(f"{subject}: compared with the cohort from now on: {e}")
        self._remember()
        self._changed(subject)

    @staticmethod
    def _stand(state: Any, learner: _Learner, text: Words, *, audit: dict[str, Any] | None = None) -> Enrolling:
        return Enrolling(
            state=state,
            minutes=learner.minutes,
            seconds=round(learner.builder.usable_s, 1),
            recorded_s=round(learner.builder.recorded_s, 1),
            text=text,
            audit=audit,
        )

    def _remember(self) -> None:
        task = asyncio.create_task(self.save(), name="board state")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def save(self) -> None:
        """Keep how all stands over a restart."""
        going_on = {s: self._stand("collecting", learner, both("", "")) for s, learner in self._learning.items()}
        board = self._service.board
        if board is not None:
            await board.remember(enrolling={**going_on, **self._ended})

    def _changed(self, subject: str) -> None:
        if self._service.board is not None:
            self._service.board.hub.changed(subject)
