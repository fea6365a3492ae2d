"""Model and enrolments of a gateway: read, their signatures judged, and fitted together."""

from __future__ import annotations

from typing import Literal

from kinedge.bundle import read_bundle
from kinedge.edge.backends import open_backend
from kinedge.edge.config import DEFAULT_BUNDLE, GatewayConfig
from kinedge.edge.enrolment import Enrolment, read_enrolment
from kinedge.edge.people import People
from kinedge.edge.scoring import Scorer
from kinedge.errors import BundleError, ConfigError
from kinedge.signing import load_trust

__all__ = ["load_trusted"]


def load_trusted(config: GatewayConfig, *, misfits: Literal["wait", "cohort"] = "wait") -> tuple[Scorer, People]:
    """Load the model of a gateway and the enrolments of its people.

    The model that ships with kinedge came with the very code that reads it, and needs no signature; every other model
    and every enrolment needs one of a trusted key, unless unsigned ones are allowed.

    Parameters
    ----------
    config
        Of the gateway.
    misfits
        What becomes of an enrolment that was made with another model: ``wait`` refuses, ``cohort`` leaves it out, and
        the verdicts' basis says that the person is compared with the cohort.

    Raises
    ------
    BundleError, BackendError
        The model does not load, or is not trusted.
    ConfigError
        A key or an enrolment is missing or damaged, is not trusted, or does not fit the model or the person.
    """
    trust = load_trust(config.trust.keys, allow_unsigned=config.trust.allow_unsigned)
    bundle = read_bundle(config.bundle)
    shipped = config.bundle.resolve() == DEFAULT_BUNDLE.resolve()
    signed = shipped or trust.check(bundle.signatures, kind="bundle", digest=bundle.digest, where=str(config.bundle))
    enrolments: dict[str, Enrolment] = {}
    unsigned: dict[str, tuple[Literal["model", "enrolment"], ...]] = {}
    for person in config.people:
        found: list[Literal["model", "enrolment"]] = [] if signed else ["model"]
        if person.enrolment is not None:
            try:
                enrolment = read_enrolment(person.enrolment)
                signer = trust.check(
                    enrolment.signatures, kind="enrolment", digest=enrolment.digest, where=str(person.enrolment)
                )
            except BundleError as e:
                raise ConfigError(f"people {person.subject}: {e}") from e
            if misfits == "cohort" and enrolment.manifest.bundle_digest != bundle.digest:
                unsigned[person.subject] = tuple(found)
                continue
            enrolments[person.subject] = enrolment
            if signer is None:
                found.append("enrolment")
        unsigned[person.subject] = tuple(found)
    backend = open_backend(bundle, config.backend, precision=config.precision)
    scorer = Scorer(bundle, backend=backend, caution=config.caution, precision=config.precision)
    return scorer, People(scorer, [p.subject for p in config.people], enrolments, unsigned=unsigned)
