"""Where a page stands: five sections by what a reader needs. A page that no section names still gets a place."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

__all__ = ["SECTIONS", "pages_of", "toctrees"]

# A pattern takes what no earlier one took; a section's pages stand in the order of its patterns.
SECTIONS: dict[str, list[str]] = {
    "Tutorials": ["tutorials/arm-use", "tutorials/training-ground", "tutorials/latency-bench", "tutorials/*"],
    "How-to": [
        "how-to/bring-your-own-sensor", "firmware", "serial-ports", "recording", "training", "enrolment", "service",
        "dashboard", "collector", "how-to/secure-a-fleet", "how-to/go-upstream-to-fhir", "desk", "reports", "rollout",
        "sync", "quantization", "tensorrt", "jetson", "how-to/*",
    ],
    "Reference": [
        "reference/cli/index", "reference/configuration/index", "reference/http", "reference/python/index", "board-api",
        "devices", "fhir", "measures", "examples",
    ],
    "Explanation": [
        "explanation/promise", "explanation/unsure", "alarms", "caution", "explanation", "architecture", "threat-model",
        "known-limits", "explanation/*",
    ],
    "Results": ["results", "peers", "performance", "scale", "log", "results-*"],
    "About": ["model-card", "data-cards", "requirements", "about/changelog", "about/contributing", "about/*"],
}  # fmt: skip
SHORT = {
    "tutorials/arm-use": "Arm use at home",
    "tutorials/training-ground": "A training ground",
    "tutorials/latency-bench": "A latency bench",
    "how-to/bring-your-own-sensor": "Bring your own sensor",
    "firmware": "Write the firmware",
    "serial-ports": "Serial ports",
    "recording": "Record and replay",
    "training": "Train on your data",
    "enrolment": "Enrol a person",
    "service": "Run a gateway",
    "dashboard": "The board's page",
    "collector": "Run a collector",
    "how-to/secure-a-fleet": "Secure a fleet",
    "how-to/go-upstream-to-fhir": "Go upstream to FHIR",
    "desk": "The review desk",
    "reports": "Reports",
    "rollout": "Roll out models",
    "sync": "Align clocks",
    "quantization": "int8 and fp16",
    "tensorrt": "TensorRT",
    "jetson": "Latency on a Jetson",
    "reference/cli/index": "Commands",
    "reference/configuration/index": "Configuration",
    "reference/http": "HTTP of the collector",
    "reference/python/index": "Python",
    "board-api": "HTTP of a board",
    "devices": "Devices",
    "fhir": "Episodes in FHIR",
    "measures": "Slow measures",
    "examples": "Examples",
    "explanation/promise": "The promise",
    "explanation/unsure": "What “unsure” means",
    "alarms": "How alarms work",
    "caution": "How caution works",
    "explanation": "How a reason is found",
    "architecture": "Architecture",
    "threat-model": "Threat model",
    "known-limits": "Known limits",
    "results": "Results",
    "peers": "Peers",
    "performance": "Performance",
    "scale": "Scale",
    "log": "What was tried",
    "model-card": "Model card",
    "data-cards": "Data cards",
    "requirements": "Requirements and tests",
    "about/changelog": "Changes",
    "about/contributing": "Contributing",
}
_ELSE = "How-to"
_NOT_LISTED = ("index", "reference/cli/*", "reference/configuration/*", "reference/python/*", "_*")


def pages_of(found: set[str]) -> dict[str, list[str]]:
    """Sort pages into sections.

    Parameters
    ----------
    found
        Names of all pages, without their ending.

    Returns
    -------
    dict
        Section -> pages, in order. Every page that is not an inner page of the reference stands in exactly one.
    """
    left = set(found)
    sections: dict[str, list[str]] = {}
    for section, patterns in SECTIONS.items():
        sections[section] = []
        for pattern in patterns:
            taken = sorted(page for page in left if fnmatch(page, pattern))
            sections[section] += taken
            left -= set(taken)
    sections[_ELSE] += sorted(p for p in left if not any(fnmatch(p, pattern) for pattern in _NOT_LISTED))
    return sections


def toctrees(folder: Path) -> str:
    """Return the navigation of all pages that lie in a folder."""
    found = {str(p.relative_to(folder).with_suffix("")) for p in folder.rglob("*.md")}
    return "\n\n".join(
        f"```{{toctree}}\n:hidden:\n:caption: {section}\n:maxdepth: 2\n\n" + "\n".join(map(_entry, pages)) + "\n```"
        for section, pages in pages_of(found).items()
        if pages
    )


def _entry(page: str) -> str:
    return f"{SHORT[page]} <{page}>" if page in SHORT else page
