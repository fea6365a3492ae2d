"""Models that come by themselves: fetched from a repository that vouches for them, tried, taken, taken back.

The Update Framework (TUF) decides which files are the latest: its keys, versions and dates refuse a repository that was
altered, set back or frozen. The bundle's own signature (``[trust]``) is judged as ever, and before it is used, a model
must answer its self-test on this board. See docs/rollout.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from kinedge.bundle import Manifest, read_bundle
from kinedge.edge.config import GatewayConfig, ModelsConfig
from kinedge.edge.model_versions import ModelVersions, files_digest
from kinedge.edge.people import People
from kinedge.edge.pipeline import Pipeline
from kinedge.edge.scoring import Scorer
from kinedge.edge.selftest import self_test
from kinedge.edge.trusted import load_trusted
from kinedge.errors import BackendError, BundleError, ConfigError, LinkError

__all__ = ["Fetched", "ModelKeeper", "Taken", "fetch"]

_MAX_BUNDLE_BYTES: Final = 256 << 20
_MAX_GOLDEN_BYTES: Final = 64 << 20
_TIMEOUT_S: Final = 15
_MAX_TRIES: Final = 3


@dataclass(frozen=True)
class Fetched:
    """The latest files of a repository, as its keys vouch for them."""

    bundle: bytes
    golden: bytes


@dataclass(frozen=True, eq=False)
class Taken:
    """A model that passed its self-test and is the current one now."""

    scorer: Scorer
    people: People


def fetch(config: ModelsConfig, versions: ModelVersions) -> Fetched:
    """Fetch the latest model of a repository.

    Raises
    ------
    LinkError
        The repository cannot be reached.
    BundleError
        It is expired, set back, altered, or has no such model.
    ConfigError
        The trusted root cannot be read, or ``tuf`` is not installed.
    """
    try:
        from tuf.api import exceptions as tuf_errors
        from tuf.ngclient.config import UpdaterConfig
        from tuf.ngclient.updater import Updater
        from tuf.ngclient.urllib3_fetcher import Urllib3Fetcher
    except ModuleNotFoundError as e:
        raise ConfigError(f"{e.name} is not installed; models need: pip install 'kinedge[rollout]'") from e
    try:
        root = config.root.read_bytes()
    except OSError as e:
        raise ConfigError(f"models.root {config.root}: cannot be read ({e.strerror})") from e
    where = f"models from {config.url}"
    stays = "the model in use stays"
    try:
        updater = Updater(
            str(versions.folder / "metadata"),
            f"{config.url}/metadata",
            target_base_url=f"{config.url}/targets",
            fetcher=Urllib3Fetcher(socket_timeout=_TIMEOUT_S),
            config=UpdaterConfig(max_root_rotations=64, max_delegations=1),
            bootstrap=root,
        )
        updater.refresh()
        contents = []
        for name, limit in ((f"{config.name}.kinedge", _MAX_BUNDLE_BYTES), (f"{config.name}.npz", _MAX_GOLDEN_BYTES)):
            info = updater.get_targetinfo(name)
            if info is None:
                raise BundleError(f"{where}: there is no {name}; publish it, or mend models.name; {stays}")
            if info.length > limit:
                raise BundleError(f"{where}: {name} has {info.length} bytes, {limit} are allowed; {stays}")
            beside = versions.folder / "metadata" / f"fetched.{limit}"
            updater.download_target(info, str(beside))
            contents.append(beside.read_bytes())
            beside.unlink()
    except tuf_errors.ExpiredMetadataError as e:
        raise BundleError(
            f"{where}: expired ({e}); {stays}; the publisher must run kinedge models refresh, and if that was done, "
            "somebody may be showing an old copy: check the way there, and this board's clock"
        ) from e
    except tuf_errors.BadVersionNumberError as e:
        raise BundleError(
            f"{where}: set back to an older state than was seen here ({e}); {stays}; "
            "the publisher must restore the newer state"
        ) from e
    except (tuf_errors.UnsignedMetadataError, tuf_errors.LengthOrHashMismatchError) as e:
        raise BundleError(f"{where}: altered, not signed by the keys that count ({e}); {stays}") from e
    except tuf_errors.DownloadLengthMismatchError as e:
        raise BundleError(f"{where}: a file is longer than was promised ({e}); {stays}") from e
    except tuf_errors.DownloadHTTPError as e:
        raise LinkError(f"{where}: the server answers {e.status_code} ({e}); it is tried again") from e
    except tuf_errors.DownloadError as e:
        raise LinkError(f"{where}: cannot be reached ({e}); it is tried again") from e
    except tuf_errors.RepositoryError as e:
        raise BundleError(f"{where}: no valid repository ({e}); {stays}") from e
    except OSError as e:
        raise BundleError(f"{versions.folder}: cannot be written ({e.strerror}); {stays}") from e
    return Fetched(*contents)


class ModelKeeper:
    """Decides which model a gateway runs. Any thread may call; one call at a time, over all processes.

    Parameters
    ----------
    config
        With ``models``.
    on_event
        Told what is worth an audit row: ``model_taken``, ``model_refused``, ``model_rolled_back``, ``model_waits``,
        ``model_kept``.

    Raises
    ------
    ConfigError
        ``models`` is missing.
    BundleError
        The folder cannot be made.
    """

    def __init__(self, config: GatewayConfig, *, on_event: Callable[[str, dict[str, Any]], None]) -> None:
        if config.models is None:
            raise ConfigError("the gateway has no [models]; say there where models come from")
        self._config, self._models = config, config.models
        self._on_event = on_event
        self._last_said = ("", "", "")
        self.versions = ModelVersions(config.models.folder)

    @property
    def poll_s(self) -> float:
        """Between two looks."""
        return self._models.poll_s

    @property
    def trial_s(self) -> float:
        """How long a new model has to do well."""
        return self._models.trial_s

    def on_trial(self, digest: str) -> bool:
        """Whether a model that was taken still has to prove itself."""
        return self._models.trial_s > 0 and self.versions.read_state().trial == digest

    def keep(self, digest: str, *, reason: str) -> None:
        """End the trial of the current model: it did well."""
        with self.versions.locked():
            if self.versions.read_state().trial == digest:
                self.versions.write_state(trial="", runs=0)
                self._say("model_kept", digest, reason)

    def pause_trial(self) -> None:
        """Say that the service ends in order: what is on trial did not take it down."""
        with self.versions.locked():
            self.versions.write_state(runs=0)

    def take_back(self, digest: str, *, reason: str) -> Taken:
        """Refuse the current model because it failed in service; return the one before, or else ``bundle``.

        Raises
        ------
        BundleError, BackendError, ConfigError
            No other works.
        """
        with self.versions.locked():
            self.versions.write_state(trial="", runs=0)
            self._refuse(digest, reason)
            previous, refused = self.versions.previous, self.versions.read_state().refused
            if previous is not None and previous not in refused:
                try:
                    taken = self._try(previous)
                    self.versions.activate(previous)
                    self._say("model_rolled_back", previous, reason)
                    return taken
                except (BundleError, BackendError, ConfigError) as e:
                    self._refuse(previous, str(e))
            taken = Taken(*load_trusted(self._config, misfits=self._models.when_enrolled))
            self.versions.clear()
            self._say("model_rolled_back", taken.scorer.bundle.digest, reason)
            return taken

    def start(self) -> Taken:
        """Load what waits, else what ran, else what ran before, else ``bundle``: the first that passes its self-test.

        Raises
        ------
        BundleError, BackendError, ConfigError
            None does; this is what the last one said.
        """
        with self.versions.locked():
            state = self.versions.read_state()
            if state.trial and state.runs >= _MAX_TRIES:
                self.versions.write_state(trial="", runs=0)
                self._refuse(state.trial, f"{state.runs} services with it on trial ended without having been told to")
                state = self.versions.read_state()
            current, previous = self.versions.current, self.versions.previous
            for digest in dict.fromkeys((state.staged, current, previous)):
                if not digest or digest in state.refused:
                    continue
                try:
                    taken = self._try(digest)
                except ConfigError as e:
                    self._say("model_waits", digest, str(e))
                    continue
                except (BundleError, BackendError) as e:
                    self._refuse(digest, str(e))
                    continue
                if digest != current:
                    self._activate(digest, on_trial=digest == state.staged)
                    self._say("model_rolled_back" if digest == previous else "model_taken", digest, "at the start")
                self._count_run(digest)
                return taken
            if current is not None:
                self._say("model_rolled_back", "", f"at the start, to {self._config.bundle}: no other works")
        return Taken(*load_trusted(self._config, misfits=self._models.when_enrolled))

    def poll(self, *, running: Scorer | None) -> Taken | None:
        """Look for a newer model and take it.

        Parameters
        ----------
        running
            The model whose streams go on; another must hear the same sensors. None: nothing runs.

        Returns
        -------
        taken
            None when there is nothing newer, or what there is was refused or has to wait; an event says so. What was
            made the current one by another process (``roll_back``) is taken, too.

        Raises
        ------
        LinkError
            The repository cannot be reached.
        BundleError
            The repository is refused.
        ConfigError
            See ``fetch``.
        """
        with self.versions.locked():
            current = self.versions.current
            refused = self.versions.read_state().refused
            if running is not None and current is not None and current not in (running.bundle.digest, *refused):
                return self._take(current, running, on_trial=False)
            if running is not None and current is None and running.bundle.digest in refused:
                return self._go_back_to_bundle(running)
            self._fetch()
            staged = self.versions.read_state().staged
            return self._take(staged, running, on_trial=True) if staged else None

    def _go_back_to_bundle(self, running: Scorer) -> Taken | None:
        """Take the configuration's own model, because somebody went back and none was before."""
        taken = Taken(*load_trusted(self._config, misfits=self._models.when_enrolled))
        digest = taken.scorer.bundle.digest
        if digest == running.bundle.digest:
            return None
        if not _goes_on(running.manifest, taken.scorer.manifest) or self._config.record is not None:
            self._say("model_waits", digest, "it is taken at the next start")
            return None
        self._say("model_taken", digest, taken.scorer.manifest.name)
        return taken

    def retry(self) -> None:
        """Forget what was refused, because somebody asks for it again."""
        with self.versions.locked():
            self.versions.write_state(refused={}, tries={}, fetched="")

    def roll_back(self) -> str:
        """Go back to the previous model, else to ``bundle``, and do not take the other again; return its digest.

        Raises
        ------
        BundleError, ConfigError
            ``bundle`` runs already, or is not to be had.
        """
        with self.versions.locked():
            before, current = self.versions.previous, self.versions.current
            if current is None:
                raise BundleError(f"{self.versions.folder}: nothing was taken from there; {self._config.bundle} runs")
            if before is None or before == current or before in self.versions.read_state().refused:
                before = read_bundle(self._config.bundle).digest  # as when a model fails by itself
                self.versions.clear()
            else:
                self._activate(before, on_trial=False)
            self.versions.refuse(current, "taken back by hand")
            self._say("model_rolled_back", before, "by hand")
            return before

    def _fetch(self) -> None:
        fetched = fetch(self._models, self.versions)
        name = files_digest(fetched.bundle, fetched.golden)
        state = self.versions.read_state()
        if name == state.fetched:
            return
        try:
            digest = read_bundle(fetched.bundle).digest
        except BundleError as e:
            self.versions.write_state(fetched=name)
            self._say("model_refused", name, str(e))
            return
        if digest in state.refused:
            self._say("model_refused", digest, f"refused before: {state.refused[digest]}")
        elif digest != self.versions.current:
            self.versions.install(digest, fetched.bundle, fetched.golden)
            self.versions.write_state(staged=digest)
        self.versions.write_state(fetched=name)

    def _activate(self, digest: str, *, on_trial: bool) -> None:
        self.versions.activate(digest)
        self.versions.write_state(trial=digest if on_trial and self._models.trial_s > 0 else "", runs=0)

    def _count_run(self, digest: str) -> None:
        """A service runs what is on trial, until it is kept or the service ends in order."""
        state = self.versions.read_state()
        if state.trial == digest:
            self.versions.write_state(runs=state.runs + 1)

    def _take(self, digest: str, running: Scorer | None, *, on_trial: bool) -> Taken | None:
        try:
            taken = self._try(digest)
            if running is not None and not _goes_on(running.manifest, taken.scorer.manifest):
                raise ConfigError("it expects other sensors, another rate or hop; it is taken at the next start")
            if running is not None and self._config.record is not None:
                raise ConfigError("a recording tells one model; it is taken at the next start")
        except ConfigError as e:
            self._say("model_waits", digest, str(e))
            return None
        except (BundleError, BackendError) as e:
            self._refuse(digest, str(e))
            return None
        if digest != self.versions.current:
            self._activate(digest, on_trial=on_trial)
        if running is not None:
            self._count_run(digest)
        self._say("model_taken", digest, taken.scorer.manifest.name)
        return taken

    def _try(self, digest: str) -> Taken:
        """Load a version as it would run, and let it answer. One that takes the process down is not tried for ever."""
        state = self.versions.read_state()
        tries = state.tries.get(digest, 0)
        if tries >= _MAX_TRIES:
            raise BundleError(f"model {digest[:16]}: {tries} self-tests were begun and none ended")
        self.versions.write_state(tries={**state.tries, digest: tries + 1})
        config = self._config.model_copy(update={"bundle": self.versions.bundle_path(digest)})
        try:
            scorer, people = load_trusted(config, misfits=self._models.when_enrolled)
            if scorer.bundle.digest != digest:
                raise BundleError(f"{config.bundle}: is another model than its folder says; it was altered")
            Pipeline(scorer, people.subjects, people=people, alarm=config.alarm)  # whether all of it goes together
            golden = self.versions.golden(digest)
            self_test(scorer, golden, precision=config.precision, tolerance=self._models.tolerance)
        finally:
            self.versions.write_state(tries={k: v for k, v in state.tries.items() if k != digest})
        return Taken(scorer, people)

    def _refuse(self, digest: str, reason: str) -> None:
        self.versions.refuse(digest, reason)
        self._say("model_refused", digest, reason)

    def _say(self, event: str, digest: str, reason: str) -> None:
        """Tell what happened, once: a poll that finds the same again is silent."""
        said = (event, digest, reason)
        if said != self._last_said:
            self._last_said = said
            self._on_event(event, {"model_digest": digest, "reason": reason})


def _goes_on(a: Manifest, b: Manifest) -> bool:
    return (a.sensors, a.rate_hz, a.hop, a.block) == (b.sensors, b.rate_hz, b.hop, b.block)
