"""The episode as it leaves the board: a versioned JSON envelope with a content-addressed id.

The id is a SHA-256 over what makes an episode itself (site, gateway, subject, sensors, start, model, raw
slice), so it is the same after a crash, a re-send or a restore. Both sides of the wire share this module.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from kinedge.abstention import Abstention
from kinedge.canonical import canonical_json, sha256_hex
from kinedge.config import Config, explain_validation_error
from kinedge.errors import OutboxError

__all__ = [
    "ENVELOPE_SCHEMA",
    "MAX_ENVELOPE_BYTES",
    "Abstention",
    "Amount",
    "Contribution",
    "Envelope",
    "Explanation",
    "Promised",
    "RawSlice",
    "SlowChange",
    "TrailPoint",
    "episode_id",
    "parse_envelope",
]

ENVELOPE_SCHEMA: Final = "kinedge.episode/1"
MAX_ENVELOPE_BYTES: Final = 1 << 20

# an envelope without them keeps its bytes
_YOUNGER: Final = ("enrolment_digest", "unsigned", "explanation", "change", "abstentions", "promise", "promised")

Amount = Literal[
    "much_less", "less", "more", "much_more", "less_than_others", "more_than_others", "out_of_step", "differently"
]
"""How a sensor moved, in a word of the sentence."""

_HEX64 = r"^[0-9a-f]{64}$"
_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}$"


class Contribution(Config):
    """The share of the surprise that starts at one sensor or channel."""

    sensor: str = Field(max_length=31)
    channel: str | None = Field(default=None, max_length=31, description="None: the sensor as a whole")
    share: float = Field(ge=0, le=1)


class TrailPoint(Config):
    """One verdict on the way: what was said, how sure, and why."""

    wall_time_utc_ns: int = Field(ge=0, lt=2**63)
    decision: Literal["normal", "anomalous", "unsure"]
    score: float
    p_value: float = Field(ge=0, le=1)
    belief_normal: float = Field(ge=0, le=1)
    belief_anomalous: float = Field(ge=0, le=1)
    reasons: tuple[str, ...] = ()
    why: tuple[tuple[str, str | None, float | None], ...] = Field(
        default=(), description="the same as code, sensor and what it goes by, for whoever says it in another language"
    )


class RawSlice(Config):
    """The samples around the episode, stored and sent apart from the envelope."""

    sha256: str = Field(pattern=_HEX64, description="over the blob's bytes")
    media_type: str = Field(max_length=64)
    n_bytes: int = Field(ge=1, lt=2**40)
    rate_hz: float = Field(gt=0)
    n_samples: int = Field(ge=1)
    channels: tuple[str, ...]
    start_utc_ns: int = Field(ge=0, lt=2**63)


class Explanation(Config):
    """What the sentence rests on: where the surprise starts, how much and how long; never a cause."""

    sensor: str = Field(max_length=31)
    quantity: Literal["acc", "gyr", "mag"]
    amount: Amount
    movement: float = Field(description="of the sensor: 0 as its usual median, 1 a step of its usual range more")
    share: float = Field(ge=0, le=1, description="of the verdicts that were anomalous")
    seconds: float = Field(ge=0)
    truth: float = Field(ge=0, le=1, description="of the sentence")
    smallest_set: tuple[str, ...] = Field(default=(), max_length=256, description="channels that account for most")
    beside: float = Field(
        default=0.0,
        ge=-1,
        le=1,
        description="share of the sensor's score that comes from how much it moved beside the other sensors, below 0 "
        "where that was less than they let expect",
    )
    out_of_step: float = Field(default=0.0, ge=0, le=1, description="the same, of when it moved")
    text: dict[Literal["en", "fr"], str]


class Promised(Config):
    """The numbers of a promise about false episodes, from which it can be said in any language."""

    kind: Literal["e_detector", "debounce", "cusum"] = Field(description="of the alarm; only the first promises")
    hours_per_false_episode: float = Field(gt=0, description="at most one is expected in so many, while it is valid")
    n_subjects: int = Field(ge=0, description="people whom the model was calibrated on")
    audit: Literal["holds", "doubtful", "does not hold"] = Field(
        description="whether at enrolment ordinary movement behaved as theirs"
    )


class SlowChange(Config):
    """Days that fall short of the person's own trend: what the sentence of a slow change rests on."""

    kind: Literal["one_arm_lower", "arms_less_even", "both_arms_lower", "contact_less_even", "impacts_less_even"]
    measure: str = Field(max_length=64)
    unit: str = Field(default="", max_length=16)
    value: float = Field(description="of the last day")
    low: float | None = Field(default=None, description="95 % interval of the value")
    high: float | None = None
    expected: float = Field(description="of that day, from the days before")
    spread: float = Field(ge=0, description="by which this person's days usually differ")
    shortfall: float = Field(ge=0, description="sum of the shortfalls since the first day, in spreads")
    threshold: float = Field(gt=0, description="a larger sum is told")
    worn_h: float = Field(ge=0, le=25, description="of the last day")
    first_day: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$", description="local; from then on it adds up")
    last_day: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$")
    text: dict[Literal["en", "fr"], str]


class Envelope(Config):
    """One episode: a stretch of time in which a person moved differently from their own baseline."""

    schema_: Literal["kinedge.episode/1"] = Field(default=ENVELOPE_SCHEMA, alias="schema")
    id: str = Field(pattern=_HEX64)
    site: str = Field(pattern=_NAME)
    gateway: str = Field(pattern=_NAME)
    subject: str = Field(pattern=_NAME, description="a pseudonym; never a name")
    sequence: int = Field(ge=1, lt=2**53, description="per gateway and subject, without gaps")
    sensors: tuple[str, ...] = Field(min_length=1)
    start_utc_ns: int = Field(ge=0, lt=2**63)
    end_utc_ns: int = Field(ge=0, lt=2**63)
    ended: Literal["as_usual", "unclear", "sensor_lost", "stopped", "restarted", "length_limit", "ongoing"]
    peak_score: float
    min_p_value: float = Field(ge=0, le=1, description="1 where none is claimed")
    unsure_share: float = Field(ge=0, le=1)
    sentence: str = Field(max_length=1000)
    contributions: tuple[Contribution, ...] = ()
    trail: tuple[TrailPoint, ...] = ()
    raw: RawSlice | None = None
    model_digest: str = Field(pattern=_HEX64)
    config_digest: str = Field(pattern=_HEX64)
    kinedge_version: str = Field(max_length=64)
    enrolment_digest: str | None = Field(
        default=None, pattern=_HEX64, description="the person was compared with their own enrolment; none: the cohort"
    )
    promise: str | None = Field(
        default=None,
        max_length=600,
        description="what was promised about false episodes, under which condition, and what the enrolment found of it",
    )
    promised: Promised | None = Field(default=None, description="the numbers of the promise")
    unsigned: tuple[Literal["model", "enrolment"], ...] = Field(
        default=(), max_length=2, description="what nobody trusted had signed"
    )

    explanation: Explanation | None = None
    abstentions: tuple[Abstention, ...] = Field(
        default=(), max_length=32, description="why verdicts were unsure, the most frequent reason first"
    )
    change: SlowChange | None = Field(default=None, description="a slow change over days, in place of an explanation")

    model_config = Config.model_config | {"populate_by_name": True}

    @field_validator("sensors")
    @classmethod
    def _sorted(cls, sensors: tuple[str, ...]) -> tuple[str, ...]:
        if list(sensors) != sorted(set(sensors)):
            raise ValueError("sensors must be sorted and distinct")
        return sensors

    @model_validator(mode="after")
    def _consistent(self) -> Envelope:
        if self.end_utc_ns < self.start_utc_ns:
            raise ValueError("end_utc_ns lies before start_utc_ns")
        expected = episode_id(
            site=self.site,
            gateway=self.gateway,
            subject=self.subject,
            sensors=self.sensors,
            start_utc_ns=self.start_utc_ns,
            model_digest=self.model_digest,
            raw_sha256=self.raw.sha256 if self.raw else None,
        )
        if self.id != expected:
            raise ValueError("id does not follow from the content")
        return self

    def to_bytes(self) -> bytes:
        """Canonical JSON: what is stored, sent and digested. Fields younger than the schema stay out while empty."""
        content = self.model_dump(mode="json", by_alias=True)
        for name in ("beside", "out_of_step") if content["explanation"] else ():
            if not content["explanation"][name]:
                del content["explanation"][name]
        for told in content["abstentions"]:
            if told["figures"] is None:
                del told["figures"]
        for point in content["trail"]:
            if not point["why"]:
                del point["why"]
        return canonical_json({k: v for k, v in content.items() if v or k not in _YOUNGER})


def episode_id(
    *,
    site: str,
    gateway: str,
    subject: str,
    sensors: tuple[str, ...],
    start_utc_ns: int,
    model_digest: str,
    raw_sha256: str | None,
) -> str:
    """Return the content-addressed id of an episode (64 hex digits)."""
    identity: dict[str, Any] = {
        "schema": ENVELOPE_SCHEMA,
        "site": site,
        "gateway": gateway,
        "subject": subject,
        "sensors": sorted(sensors),
        "start_utc_ns": start_utc_ns,
        "model_digest": model_digest,
        "raw_sha256": raw_sha256,
    }
    return sha256_hex(canonical_json(identity))


def parse_envelope(data: bytes) -> Envelope:
    """Read an envelope from JSON bytes.

    Raises
    ------
    OutboxError
        The bytes are too many, no JSON, of another schema version, or inconsistent.
    """
    if len(data) > MAX_ENVELOPE_BYTES:
        raise OutboxError(f"envelope of {len(data)} bytes; the limit is {MAX_ENVELOPE_BYTES}")
    try:
        return Envelope.model_validate_json(data)
    except ValidationError as e:
        raise OutboxError(explain_validation_error(e, Envelope, "envelope")) from e
