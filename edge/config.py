"""Configuration of a gateway: who wears what, on which port, which model, and where episodes go."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, field_validator, model_validator

from kinedge.canonical import canonical_json, sha256_hex
from kinedge.config import Config, load_toml
from kinedge.edge.alarm import AlarmConfig
from kinedge.edge.backends import DEFAULT_BACKENDS, BackendName
from kinedge.edge.caution import CautionConfig
from kinedge.edge.episodes import EpisodeConfig
from kinedge.edge.measures.config import MeasuresConfig
from kinedge.edge.vault import Vault, read_master_key
from kinedge.errors import ConfigError
from kinedge.firmware_bridge.open_device import DeviceConfig

__all__ = [
    "DEFAULT_BUNDLE",
    "GatewayConfig",
    "HttpConfig",
    "KeysConfig",
    "LslConfig",
    "ModelsConfig",
    "PersonConfig",
    "RecordConfig",
    "TrustConfig",
    "UplinkConfig",
    "load_gateway_config",
]

DEFAULT_BUNDLE: Final = Path(__file__).parent / "models" / "wrists-sim.kinedge"

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}$")]


class PersonConfig(Config):
    """One person, known by a pseudonym, and the devices they wear."""

    subject: Name = Field(description="a pseudonym; never a name", examples=["p-001"])
    devices: tuple[DeviceConfig, ...] = Field(default=(), max_length=32, description="none: only for a replay")
    enrolment: Path | None = Field(default=None, description="from kinedge enrol; none: compared with the cohort")
    affected: Literal["left", "right"] | None = Field(
        default=None, description="side of the weaker arm, for measures; none: either may fall behind"
    )


_DECISIVE: Final = {"alarm", "caution", "episodes", "max_delay_s", "n_phases", "precision"}


class TrustConfig(Config):
    """Whose signatures on models and enrolments count. The model that ships with kinedge needs none."""

    keys: tuple[Path, ...] = Field(default=(), max_length=64, description="public keys, from kinedge keygen")
    allow_unsigned: bool = Field(default=False, description="take what no trusted key has signed; verdicts say so")


class UplinkConfig(Config):
    """The collector episodes are sent to."""

    url: str = Field(
        pattern=r"^https?://[^\s]+$", description="of the collector", examples=["https://collector.example"]
    )
    token_file: Path | None = Field(
        default=None, description="a file that holds the bearer token", examples=["collector.token"]
    )
    identity: Path | None = Field(
        default=None,
        description="the folder of kinedge enroll-gateway: https with a certificate",
        examples=["identity"],
    )
    raw_bytes_per_day: int | None = Field(
        default=None, ge=1 << 16, description="raw data beyond it waits; episodes never do", examples=[50_000_000]
    )

    def token(self) -> str | None:
        """Read the token.

        Raises
        ------
        ConfigError
            The file cannot be read, or is empty.
        """
        if self.token_file is None:
            return None
        try:
            token = self.token_file.read_text(encoding="utf-8").strip()
        except OSError as e:
            raise ConfigError(f"uplink.token_file {self.token_file}: cannot be read ({e.strerror})") from e
        if not token:
            raise ConfigError(f"uplink.token_file {self.token_file}: it is empty; put the collector's token there")
        return token


class RecordConfig(Config):
    """What is heard is recorded, too: ``folder/TIME/SUBJECT`` for every start."""

    folder: Path = Field(description="where recordings lie", examples=["recordings"])
    segment_s: float = Field(default=5, ge=0.5, le=600, description="what a cut loses at most")
    keep_hours: float = Field(default=72, gt=0, le=87_600, description="older segments go, oldest first")
    budget_mb: float = Field(default=4096, ge=1, le=1e9, description="of all recordings; beyond it the oldest go")


class KeysConfig(Config):
    """The master key that episodes on this disk are sealed under (docs/service.md)."""

    file: Path | None = Field(
        default=None,
        description="32 bytes that only this user may read: openssl rand 32",
        examples=["/etc/kinedge.key"],
    )
    credential: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9_.-]{1,64}$",
        description="name of a systemd credential, in place of file",
        examples=["kinedge-key"],
    )
    whole_file: bool = Field(
        default=False,
        description="a store that is begun with it is encrypted as a whole, too; needs kinedge[sqlcipher]",
    )

    @model_validator(mode="after")
    def _one(self) -> KeysConfig:
        if (self.file is None) == (self.credential is None):
            raise ValueError("give either file or credential")
        return self

    def vault(self, store: Path) -> Vault:
        """Open the vault of a store.

        Raises
        ------
        ConfigError
            The key cannot be read, or this process was given no credentials.
        """
        path = self.file
        if path is None:
            folder = os.environ.get("CREDENTIALS_DIRECTORY")
            if not folder:
                raise ConfigError(f"keys.credential {self.credential}: none given; say LoadCredential= in the unit")
            path = Path(folder) / str(self.credential)
        return Vault(Path(f"{store}.keys"), read_master_key(path), whole_file=self.whole_file)


class HttpConfig(Config):
    """A small server on the board: the dashboard, metrics and health (docs/service.md)."""

    host: str = Field(
        default="127.0.0.1", pattern=r"^[A-Za-z0-9.:_-]{1,253}$", description="address to listen on; this machine alone"
    )
    port: int = Field(default=9464, ge=0, le=65535, description="TCP port; 0: any free one")
    dashboard: bool = Field(default=True, description="serve the dashboard, too; false: metrics and health alone")
    token_file: Path | None = Field(
        default=None,
        description="a file that only this user may read, with the token that opens the dashboard; needed beyond "
        "loopback: openssl rand -hex 16",
        examples=["dashboard.token"],
    )


class LslConfig(Config):
    """What is told as streams of LSL."""

    samples: bool = Field(default=True, description="of the model's sensors, on the host's clock")
    verdicts: bool = Field(default=True, description="as JSON texts")


class ModelsConfig(Config):
    """Where newer models come from by themselves (docs/rollout.md); needs ``pip install 'kinedge[rollout]'``."""

    url: str = Field(
        pattern=r"^https?://[^\s]*[^\s/]$",
        description="of the repository's folder",
        examples=["https://models.example/kinedge"],
    )
    root: Path = Field(
        description="the repository's root.json, brought here by hand: what all trust begins with",
        examples=["root.json"],
    )
    name: Name = Field(description="of the model in the repository", examples=["wrists"])
    folder: Path = Field(default=Path("models"), description="where models are kept")
    poll_s: float = Field(default=3600, ge=1, le=2_592_000, description="between two looks")
    tolerance: float = Field(
        default=0.05, gt=0, le=1, description="of a score in the self-test; 1 is the 99 % quantile"
    )
    when_enrolled: Literal["wait", "cohort"] = Field(
        default="wait",
        description="an enrolment is for one model: wait for one made with the new model, or compare with the cohort",
    )
    trial_s: float = Field(
        default=600,
        ge=0,
        le=604_800,
        description="of somebody heard, before a new model is kept; one that fails is taken back; 0: no trial",
    )


class GatewayConfig(Config):
    """What ``kinedge run`` reads."""

    site: Name = Field(description="the house or clinic, as the collector knows it", examples=["clinic-a"])
    gateway: Name = Field(description="this board; no two gateways of a collector share it", examples=["gw-01"])
    bundle: Path = Field(default=DEFAULT_BUNDLE, description="a .kinedge file; the shipped wrist model when left out")
    precision: str = Field(
        default="fp32",
        pattern=r"^[a-z0-9]{1,16}$",
        description="which of the bundle's models: fp32, int8, fp16",
    )
    backend: tuple[BackendName, ...] = Field(
        default=DEFAULT_BACKENDS,
        min_length=1,
        max_length=5,
        description="the first that works here; no other is ever used",
    )
    max_streams: int = Field(
        default=64, ge=1, le=4096, description="people that a TensorRT engine is for, as given to kinedge compile"
    )
    store: Path = Field(default=Path("kinedge-edge.db"), description="SQLite file for episodes and the outbox")
    people: tuple[PersonConfig, ...] = Field(min_length=1, max_length=256)
    spare: tuple[DeviceConfig, ...] = Field(
        default=(), max_length=256, description="devices of nobody yet; the dashboard gives them to somebody"
    )
    uplink: UplinkConfig | None = Field(default=None, description="none: episodes wait in the store")
    record: RecordConfig | None = Field(default=None, description="none: nothing is recorded")
    lsl: LslConfig | None = Field(default=None, description="none: nothing is told over LSL")
    keys: KeysConfig | None = Field(default=None, description="none: episodes are kept as they are")
    http: HttpConfig | None = Field(
        default=None, description="none: kinedge run serves the dashboard on loopback; false: nothing is served"
    )
    measures: MeasuresConfig | None = Field(
        default=None, description="arm use and gait over hours and days; none: not measured (docs/measures.md)"
    )
    models: ModelsConfig | None = Field(default=None, description="none: the bundle stays what it is")
    trust: TrustConfig = TrustConfig()
    caution: CautionConfig = CautionConfig()
    alarm: AlarmConfig | None = Field(
        default=AlarmConfig(),
        description="a promise about false episodes of enrolled people; false: repeated verdicts open one",
    )
    episodes: EpisodeConfig = EpisodeConfig()
    keep_sent_days: float = Field(
        default=7, ge=0, le=3650, description="raw data that the collector has is kept so long"
    )
    keep_episodes_days: float = Field(
        default=365, ge=0, le=36_500, description="older episodes go, if the collector has had them for keep_sent_days"
    )
    max_sent_episodes: int = Field(
        default=100_000, ge=0, le=10**9, description="of those that the collector has, only the newest so many stay"
    )
    max_delay_s: float = Field(default=0.25, ge=0.02, le=5, description="how long a sample waits for a slow sensor")
    n_phases: int | None = Field(
        default=None,
        ge=1,
        le=1000,
        description="at how many different moments hops end, at most one per tick of a hop; left out: 1 for up to 64 "
        "people, then one for every 12 (docs/performance.md)",
    )
    checkpoint_s: float = Field(
        default=30, ge=0, le=600, description="between two checkpoints, from which a restart goes on; 0: none"
    )

    @field_validator("alarm", "http", mode="before")
    @classmethod
    def _switched_off(cls, given: object) -> object:
        return None if given is False else given

    @field_validator("people")
    @classmethod
    def _distinct(cls, people: tuple[PersonConfig, ...]) -> tuple[PersonConfig, ...]:
        _refuse_twice("subject", [p.subject for p in people])
        _refuse_twice("device", [d.where for p in people for d in p.devices])
        return people

    @model_validator(mode="after")
    def _spare_of_nobody(self) -> GatewayConfig:
        _refuse_twice("device", [d.where for d in (*self.spare, *(d for p in self.people for d in p.devices))])
        return self

    @model_validator(mode="after")
    def _windows(self) -> GatewayConfig:
        if self.episodes.open_hits > self.episodes.open_window:
            raise ValueError("episodes.open_hits cannot be more than episodes.open_window")
        return self

    @model_validator(mode="after")
    def _engine_holds_everybody(self) -> GatewayConfig:
        n = len(self.people)
        if n > self.max_streams and any(name.startswith("tensorrt") for name in self.backend):
            raise ValueError(
                f"{n} people do not fit an engine for max_streams = {self.max_streams}; set max_streams = {n} and run "
                "kinedge compile --config with this file"
            )
        return self

    def digest(self) -> str:
        """Name the settings that decide what is said: precision, caution, episodes, delay. Ports and paths do not."""
        who = {"site": self.site, "gateway": self.gateway}
        return sha256_hex(canonical_json({**who, **self.decisive()}))

    def decisive(self) -> dict[str, Any]:
        """Return the settings that decide what is said, in JSON's words."""
        return self.model_dump(mode="json", include=_DECISIVE, exclude_none=True)


def _refuse_twice(what: str, names: list[str]) -> None:
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise ValueError(f"{what} {', '.join(twice)} stands twice")


def load_gateway_config(path: Path) -> GatewayConfig:
    """Read a gateway's TOML file; relative paths in it are relative to it.

    Raises
    ------
    ConfigError
        It is missing, no TOML, or has unknown keys or impossible values.
    """
    config = load_toml(path, GatewayConfig)
    here = Path(os.path.abspath(path)).parent
    people = tuple(
        person.model_copy(
            update={
                "enrolment": None if person.enrolment is None else here / person.enrolment,
                "devices": _found(person.devices, here),
            }
        )
        for person in config.people
    )
    changes: dict[str, object] = {"bundle": here / config.bundle, "store": here / config.store, "people": people}
    changes["spare"] = _found(config.spare, here)
    if config.http is not None and config.http.token_file is not None:
        changes["http"] = config.http.model_copy(update={"token_file": here / config.http.token_file})
    if config.uplink is not None and config.uplink.token_file is not None:
        changes["uplink"] = config.uplink.model_copy(update={"token_file": here / config.uplink.token_file})
    if config.uplink is not None and config.uplink.identity is not None:
        uplink = changes.get("uplink", config.uplink)
        changes["uplink"] = uplink.model_copy(update={"identity": here / config.uplink.identity})  # type: ignore[attr-defined]
    if config.trust.keys:
        changes["trust"] = config.trust.model_copy(update={"keys": tuple(here / k for k in config.trust.keys)})
    if config.models is not None:
        places = {"root": here / config.models.root, "folder": here / config.models.folder}
        changes["models"] = config.models.model_copy(update=places)
    if config.keys is not None and config.keys.file is not None:
        changes["keys"] = config.keys.model_copy(update={"file": here / config.keys.file})
    if config.record is not None:
        changes["record"] = config.record.model_copy(update={"folder": here / config.record.folder})
    return config.model_copy(update=changes)


def _found(devices: tuple[DeviceConfig, ...], here: Path) -> tuple[DeviceConfig, ...]:
    """Return devices whose paths are relative to a folder."""
    return tuple(
        d if d.struct_map is None else d.model_copy(update={"struct_map": here / d.struct_map}) for d in devices
    )
