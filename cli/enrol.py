"""``kinedge enrol``: half an hour of a wearer's ordinary movement to a small file of what is usual for them."""

from __future__ import annotations

import asyncio
import json
import logging
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from kinedge.bundle import write_bundle
from kinedge.cli.app import app
from kinedge.cli.enrol_picture import draw_enrolment
from kinedge.cli.poses_heard import PosesHeard
from kinedge.cli.replay_session import gateway_of, sessions_by_subject
from kinedge.cli.run import serve_until
from kinedge.edge.alarm import AlarmConfig
from kinedge.edge.config import GatewayConfig, load_gateway_config
from kinedge.edge.enrol import EnrolmentBuilder
from kinedge.edge.enrolment import Enrolment, read_enrolment
from kinedge.edge.feedback import Answered, Entered, answers_in, enter_dismissed, note_recalibration
from kinedge.edge.history import N_BACK
from kinedge.edge.pipeline import Scored
from kinedge.edge.pose_guide import PoseGuide
from kinedge.edge.pose_marks import PoseMark, parse_marks
from kinedge.edge.promise import promise, setting
from kinedge.edge.scoring import Scorer
from kinedge.edge.service import EdgeService
from kinedge.edge.store import EpisodeStore
from kinedge.edge.vault import vault_beside
from kinedge.edge.verdict import Verdict
from kinedge.errors import ConfigError
from kinedge.firmware_bridge.recorded_source import RecordedSource, read_sessions
from kinedge.signing import load_signing_key, sign_archive

__all__ = ["enrol"]


@app.command()
def enrol(
    source: Annotated[Path, typer.Argument(help="A recorded session, or a gateway's TOML file to enrol live.")],
    subject: Annotated[str, typer.Option(help="Pseudonym; needed where there are several people.")] = "",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="SUBJECT.enrolment when left out.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="A .kinedge file; the gateway's, else the shipped model.")] = None,
    key: Annotated[Path | None, typer.Option(help="Sign it with this secret key.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw it there, as SVG.")] = None,
    gateway: Annotated[
        Path | None, typer.Option(help="Recorded: tell the promise of the alarm that this gateway's TOML file sets.")
    ] = None,
    minutes: Annotated[float, typer.Option(min=1, max=240, help="Live: how much usable movement to take.")] = 40.0,
    pose: Annotated[
        list[str] | None,
        typer.Option(
            help="Recorded: when a guided pose was held, as down=12.5 or table=1:05 from the start of the recording. "
            "Give each at least once; new days of who does not walk are aligned by them."
        ),
    ] = None,
    guided_poses: Annotated[
        bool, typer.Option("--guided-poses", help="Live: lead through the poses first; about a minute.")
    ] = False,
    feedback: Annotated[
        Path | None, typer.Option(help="A store: what was said there about this person's episodes enters, too.")
    ] = None,
    feedback_key: Annotated[Path | None, typer.Option(help="The master key of that store, if it is sealed.")] = None,
    allow_short: Annotated[bool, typer.Option("--allow-short", help="Take less than 30 minutes, at a cost.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was learned as JSON.")] = False,
) -> None:
    """Learn what is usual for one person, and say whether the cohort's assumption holds for them.

    30 to 60 minutes of what they ordinarily do, walking among it. Needs no torch: it runs on the board.

    Example: kinedge enrol recordings/monday --subject p-001 --key clinic.pem --picture p-001.svg

    Example: kinedge enrol recordings/monday --subject p-001 --feedback edge.db

    Somebody who does not walk: kinedge enrol recordings/monday --pose down=0:10 --pose table=0:25
    """
    marks = parse_marks(pose or ())
    signing_key = None if key is None else load_signing_key(key)
    logging.getLogger("kinedge").addHandler(logging.NullHandler())
    logging.getLogger("kinedge").propagate = False
    with tempfile.TemporaryDirectory(prefix="kinedge-enrol-") as folder:
        config, recorded = _settings(source, subject, bundle, Path(folder) / "enrol.db")
        if recorded is None and gateway is not None:
            raise ConfigError("--gateway says what a recording does not; live, SOURCE is the gateway's file")
        if gateway is not None:
            config = config.model_copy(update={"alarm": load_gateway_config(gateway).alarm})
        name = config.people[0].subject
        said = Feedback.of(feedback, name, key=feedback_key)
        if recorded is None and marks:
            raise ConfigError("--pose marks times of a recording; live, --guided-poses leads through the poses")
        if recorded is not None and guided_poses:
            raise ConfigError("--guided-poses is for a live gateway; say with --pose when the poses were held here")
        service, builder, poses = _prepare(config, recorded, said, marks)
        if guided_poses:
            poses.guide = PoseGuide(service.scorer.manifest.sensor_specs, rate_hz=service.scorer.manifest.rate_hz)
        _collect(service, builder, recorded, minutes=minutes, quiet=as_json)
        if (frames := poses.frames()) is not None:
            builder.take_poses(frames)
        entered = said.enter(builder, service.scorer)
        placement = {h.sensor: f"{h.where} {h.serial}".strip() for h in service.health.values()}
        told = f"{'recorded' if recorded else 'live'}: {source.name}"
        data = builder.finish(name, source=told, placement=placement, allow_short=allow_short)
    enrolment = read_enrolment(data)
    if signing_key is not None:
        data = sign_archive(data, signing_key, kind="enrolment", digest=enrolment.digest)
    place = out or Path(f"{name}.enrolment")
    if feedback is not None:  # first: no calibration changes without a trace
        vault = vault_beside(feedback, feedback_key)
        note_recalibration(feedback, entered, subject=name, enrolment_digest=enrolment.digest, vault=vault)
    write_bundle(place, data)
    if picture is not None:
        write_bundle(picture, draw_enrolment(enrolment, service.scorer).encode())
    sentence = _promise(config, service, enrolment)
    signer = None if signing_key is None else signing_key.verify_key.key_id
    if as_json:
        facts = enrolment.manifest.model_dump(mode="json")
        facts |= {"promise": sentence, "answers": [asdict(e) for e in entered]}
        typer.echo(json.dumps({"out": str(place), "digest": enrolment.digest, "signed_by": signer, **facts}, indent=2))
        return
    if recorded is not None and gateway is None:
        sentence += " (as set when this was recorded, else by default; --gateway FILE tells it as that gateway sets it)"
    _tell(place, enrolment, signer, sentence=sentence, entered=entered)


@dataclass
class Feedback:
    """The answers about one person's episodes on their way into an enrolment."""

    answered: tuple[Answered, ...] = ()
    n_left_out: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, store: Path | None, subject: str, *, key: Path | None = None) -> Feedback:
        """Read those of a store; none without one."""
        if store is None:
            return cls()
        with EpisodeStore(store, read_only=True, vault=vault_beside(store, key)) as kept:
            return cls(tuple(answers_in(kept, subject=subject)))

    def leaves_out(self, end_utc_ns: int, *, block_ns: int) -> bool:
        """Whether a block that ends now was part of an episode that was confirmed."""
        for one in self.answered:
            e = one.envelope
            if one.answer == "confirmed" and e.start_utc_ns < end_utc_ns <= e.end_utc_ns + block_ns:
                self.n_left_out[e.id] += 1
                return True
        return False

    def enter(self, builder: EnrolmentBuilder, scorer: Scorer) -> list[Entered]:
        """Take the dismissed ones in, and say what became of each."""
        entered = list(enter_dismissed(builder, scorer, self.answered))
        for one in self.answered:
            if one.answer == "confirmed":
                n = self.n_left_out[one.envelope.id]
                entered.append(Entered(one.envelope.id, one.answer, n, "" if n else "it was not recorded here"))
        builder.note_feedback({e.episode: e.answer for e in entered if not e.why_not})
        return entered


def _settings(
    source: Path, subject: str, bundle: Path | None, store: Path
) -> tuple[GatewayConfig, RecordedSource | None]:
    """Return settings for one person, who is compared with the cohort while they enrol."""
    if source.suffix == ".toml":
        config = load_gateway_config(source)
        people = [p for p in config.people if subject in ("", p.subject)]
        if len(people) != 1:
            raise ConfigError(f"{source}: name one of {', '.join(p.subject for p in config.people)} with --subject")
        changes: dict[str, object] = {
            "people": (people[0].model_copy(update={"enrolment": None}),),
            "store": store,
            "uplink": None,
            "record": None,
            "lsl": None,
        }
        if bundle is not None:
            changes["bundle"] = bundle
        return config.model_copy(update=changes), None
    sessions = sessions_by_subject(read_sessions(source), subject=subject)
    if len(sessions) != 1:
        raise ConfigError(f"{source}: name one of {', '.join(sessions)} with --subject")
    config = gateway_of(sessions, store, bundle=bundle)
    # the promise that is told is that of the default where the recording was made without an alarm
    config = config.model_copy(update={"alarm": config.alarm or AlarmConfig()})
    return config, RecordedSource(sessions, speed=float("inf"))


def _prepare(
    config: GatewayConfig, recorded: RecordedSource | None, said: Feedback, marks: Sequence[PoseMark]
) -> tuple[EdgeService, EnrolmentBuilder, PosesHeard]:
    def on_scored(scored: Scored, verdict: Verdict) -> None:
        manifest = service.scorer.manifest
        poses.hear(scored)
        block_ns = round(manifest.block / manifest.rate_hz * 1e9)
        if not said.leaves_out(service.clock.utc_ns(verdict.host_time_ns), block_ns=block_ns):
            builder.add_scored(scored)

    service = EdgeService(config, on_scored=on_scored, source=recorded)
    builder = EnrolmentBuilder(service.scorer)
    poses = PosesHeard.of(service, marks)
    return service, builder, poses


def _collect(
    service: EdgeService, builder: EnrolmentBuilder, recorded: RecordedSource | None, *, minutes: float, quiet: bool
) -> None:
    """Run until the recording has ended, enough was seen, or somebody says stop."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=quiet, transient=True) as progress:
        total = (recorded.n_samples or None) if recorded is not None else minutes * 60
        task = progress.add_task("listening", total=total)

        def on_tick() -> None:
            done = sum(h.samples for h in service.health.values()) if recorded is not None else builder.usable_s
            told = f"{builder.usable_s / 60:.1f} usable of {builder.recorded_s / 60:.1f} min"
            progress.update(task, completed=done, description=told)

        enough = None if recorded is not None else lambda: builder.usable_s >= minutes * 60 or builder.is_full
        asyncio.run(serve_until(service, on_tick=on_tick, until=enough))


def _promise(config: GatewayConfig, service: EdgeService, enrolment: Enrolment) -> str:
    cohort = service.scorer.calibration.enrolled
    if config.alarm is None or cohort is None:
        return setting(None)
    return promise(config.alarm, audit=enrolment.manifest.audit.verdict, n_subjects=int(cohort.n_subjects[0]))


def _tell(place: Path, enrolment: Enrolment, signer: str | None, *, sentence: str, entered: Sequence[Entered]) -> None:
    manifest, audit = enrolment.manifest, enrolment.manifest.audit
    console = Console()
    table = Table(title=f"{place}  ({enrolment.digest[:16]})", show_header=False)
    table.add_row("person", manifest.subject)
    table.add_row("model", f"{manifest.bundle_name}  {manifest.bundle_digest[:16]}")
    table.add_row(
        "used", f"{manifest.usable_s / 60:.1f} of {manifest.recorded_s / 60:.1f} min, as {manifest.n_blocks} blocks"
    )
    table.add_row("left out as abnormal", f"{manifest.n_trimmed} blocks")
    table.add_row("walking", f"{manifest.walking_s / 60:.1f} min, from which new days are aligned")
    held = "none: who does not walk is not aligned on a new day, and nothing is promised then"
    if enrolment.poses is not None:
        usable = [s.name for s, ok in zip(manifest.sensors, enrolment.poses.usable, strict=True) if ok]
        held = f"{', '.join(manifest.poses)}, from which {', '.join(usable)} can be aligned on a new day"
    table.add_row("guided poses", held)
    table.add_row("independent blocks", f"{audit.effective_blocks:.0f}")
    for level in audit.levels:
        limit = "" if level.limit is None else f", cohort at most {level.limit:.1%}"
        rate = f"{level.hits} of {level.visits} ({level.hits / max(level.visits, 1):.1%}{limit}): {level.found}"
        table.add_row(f"exceeds after {level.h} of {N_BACK}", rate)
    table.add_row(
        "signed", "no: a gateway takes it only with trust.allow_unsigned" if signer is None else f"key {signer}"
    )
    console.print(table)
    style = {"holds": "green", "doubtful": "yellow", "does not hold": "red"}[audit.verdict]
    console.print(f"[{style}]{escape(audit.sentence())}[/{style}]", highlight=False)
    console.print(f"With this, {escape(sentence)}.", highlight=False)
    for e in entered:
        what = "taken as ordinary" if e.answer == "dismissed" else "left out"
        told = f"{e.n_blocks} blocks {what}" if not e.why_not else f"did not enter: {e.why_not}"
        console.print(f"episode {e.episode[:12]}…, {e.answer}: {escape(told)}", highlight=False)
    if manifest.short:
        console.print("[yellow]Short: what is rare is taken from the cohort for a good part.[/yellow]")
