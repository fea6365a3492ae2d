"""Model and enrolments of a gateway: read, their signatures judged, and fitted together."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from kinedge.bundle import Bundle, read_bundle
from kinedge.edge.backends import open_backend
from kinedge.edge.board_key import board_public_keys
from kinedge.edge.config import DEFAULT_BUNDLE, GatewayConfig
from kinedge.edge.kept_enrolments import KeptEnrolments
from kinedge.edge.people import People
from kinedge.edge.scoring import Scorer
from kinedge.errors import BundleError, ConfigError
from kinedge.signing import Trust, load_trust

__all__ = ["bundle_in_use", "is_trusted", "load_people", "load_trusted"]


def bundle_in_use(config: GatewayConfig) -> Path:
    """Return the bundle that a gateway runs: the current one of its folder of models, else that of its file."""
    if config.models is None:
        return config.bundle
    from kinedge.edge.model_versions import current_bundle

    return current_bundle(config.models.folder) or config.bundle


def is_trusted(bundle: Bundle, path: Path, trust: Trust) -> bool:
    """Whether a bundle was signed by a trusted key, or came with kinedge; False where unsigned ones are allowed.

    Raises
    ------
    BundleError
        It was not, and unsigned ones are not allowed.
    """
    if path.resolve() == DEFAULT_BUNDLE.resolve():
        return True
    return trust.check(bundle.signatures, kind="bundle", digest=bundle.digest, where=str(path)) is not None


def load_trusted(config: GatewayConfig, *, misfits: Literal["wait", "cohort"] = "wait") -> tuple[Scorer, People]:
    """Load the model of a gateway and the enrolments of its people.

    The model that ships with kinedge came with the very code that reads it, and needs no signature; every other model
    and every enrolment needs one of a trusted key, unless unsigned ones are allowed. Enrolments may be signed by the
    board's own key, too.

    Parameters
    ----------
    config
        Of the gateway.
    misfits
        What becomes of an enrolment that was made with another model or precision: ``wait`` refuses, ``cohort`` leaves
        it out, and the verdicts' basis says that the person is compared with the cohort.

    Raises
    ------
    BundleError, BackendError
        The model does not load, or is not trusted.
    ConfigError
        A key or an enrolment is missing or damaged, is not trusted, or does not fit the model or the person.
    """
    trust = load_trust(config.trust.keys, allow_unsigned=config.trust.allow_unsigned)
    bundle = read_bundle(config.bundle)
    signed = is_trusted(bundle, config.bundle, trust)
    backend = open_backend(bundle, config.backend, precision=config.precision, max_streams=config.max_streams)
    scorer = Scorer(bundle, backend=backend, caution=config.caution, precision=config.precision)
    return scorer, load_people(config, scorer, signed=signed, misfits=misfits)


def load_people(
    config: GatewayConfig, scorer: Scorer, *, signed: bool, misfits: Literal["wait", "cohort"] = "wait"
) -> People:
    """Load the enrolments of a gateway's people for a model that is here already.

    Parameters
    ----------
    config
        Of the gateway.
    scorer
        The model.
    signed
        Somebody trusted has signed it.
    misfits
        As for ``load_trusted``.

    Raises
    ------
    ConfigError
        A key or an enrolment is missing or damaged, is not trusted, or does not fit the model or the person.
    """
    keys = (*config.trust.keys, *board_public_keys(config.store))
    trust = load_trust(keys, allow_unsigned=config.trust.allow_unsigned)
    enrolments = KeptEnrolments(own_reference=scorer.calibration.enrolled is None)
    unsigned: dict[str, tuple[Literal["model", "enrolment"], ...]] = {}
    for person in config.people:
        found: list[Literal["model", "enrolment"]] = [] if signed else ["model"]
        if person.enrolment is not None:
            from kinedge.edge.enrolment import read_enrolment

            try:
                enrolment = read_enrolment(person.enrolment)
                signer = trust.check(
                    enrolment.signatures, kind="enrolment", digest=enrolment.digest, where=str(person.enrolment)
                )
            except BundleError as e:
                raise ConfigError(f"people {person.subject}: {e}") from e
            made_with = enrolment.manifest.bundle_digest, enrolment.manifest.precision
            if misfits == "cohort" and made_with != (scorer.bundle.digest, config.precision):
                unsigned[person.subject] = tuple(found)
                continue
            enrolments.keep(person.subject, enrolment)
            if signer is None:
                found.append("enrolment")
        unsigned[person.subject] = tuple(found)
    return People(scorer, [p.subject for p in config.people], enrolments, unsigned=unsigned)
