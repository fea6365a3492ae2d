"""How a session begins: whose calibration counts for each person, how old it is, and who wore each sensor before.

A session goes by the enrolment that the last one ended with, at once, and has to show first that it still holds: until
ten minutes were heard, nothing is valid. Who wears a device decides whose calibration its samples are held against.
Every change of that is an audit row, so that nobody's movement is ever judged by another's baseline without a trace.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from kinedge.edge.people import People

__all__ = ["WORN", "Beginning", "Wearers", "beginnings"]

WORN = "worn"
"""The audit row of a device that somebody wears for the first time, or after somebody else."""


@dataclass(frozen=True)
class Beginning:
    """What one person's session begins with.

    Parameters
    ----------
    enrolled_utc
        When their own calibration was made; empty for whoever is compared with the cohort.
    age_days
        How old it is now; None where it cannot be told.
    audit
        What the enrolment's audit says, in words.
    promise
        What is promised about false episodes; empty where no alarm is set.
    """

    subject: str
    enrolled_utc: str = ""
    age_days: float | None = None
    audit: str = ""
    promise: str = ""

    def sentence(self) -> str:
        """Say it in words."""
        if not self.enrolled_utc:
            return f"{self.subject}: compared with the cohort; nothing is promised about false episodes"
        age = "" if self.age_days is None else f", {self.age_days:.0f} days old"
        told = f"{self.subject}: compared with their own enrolment of {self.enrolled_utc}{age}. {self.audit}"
        if not self.promise:
            return f"{told} No alarm is set: nothing is promised about false episodes."
        return f"{told} Not valid before ten minutes were heard; then: {self.promise}."


def beginnings(people: People, promises: Mapping[str, str], *, now_utc_s: float) -> tuple[Beginning, ...]:
    """Return one of each person, in their order.

    Parameters
    ----------
    promises
        By subject.
    now_utc_s
        UNIX time.
    """
    found = []
    for subject in people.subjects:
        enrolment = people.enrolments.get(subject)
        if enrolment is None:
            found.append(Beginning(subject))
            continue
        made = enrolment.manifest.enrolled_utc
        age = _age_days(made, now_utc_s)
        found.append(Beginning(subject, made, age, enrolment.manifest.audit.sentence(), promises.get(subject, "")))
    return tuple(found)


def _age_days(made_utc: str, now_utc_s: float) -> float | None:
    try:
        made = datetime.strptime(made_utc, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    except ValueError:
        return None
    # a board without a clock of its own may think it is before the enrolment
    return max(0.0, (now_utc_s - made.timestamp()) / 86_400)


class Wearers:
    """Remembers who wore which device, across sessions.

    Parameters
    ----------
    known
        Details of the ``worn`` rows of the audit trail, oldest first.
    """

    def __init__(self, known: list[dict[str, Any]]) -> None:
        self._by_serial = {str(row["serial"]): str(row["subject"]) for row in known}

    def met(self, subject: str, sensor: str, serial: str, people: People) -> dict[str, Any] | None:
        """Take a device that told who it is; return the audit row if it changed hands, or is new.

        A device without a serial number cannot be told from another.
        """
        before = self._by_serial.get(serial)
        if not serial or before == subject:
            return None
        self._by_serial[serial] = subject
        enrolment = people.enrolments.get(subject)
        return {
            "serial": serial,
            "sensor": sensor,
            "subject": subject,
            "before": before,
            "calibration": "cohort" if enrolment is None else enrolment.digest,
        }
