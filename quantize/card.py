"""The model card: what a bundle is for, what it was made from, what was measured, what it is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["model_card"]


def model_card(fields: Mapping[str, Any]) -> str:
    """Write the card of a bundle from the fields of its manifest."""

    def rows(facts: Mapping[str, Any]) -> list[str]:
        return [f"| {key.replace('_', ' ')} | {value} |" for key, value in facts.items()] or ["| nothing yet | |"]

    sensors = ", ".join(f"{s['name']} ({' '.join(s['channels'])})" for s in fields["sensors"])
    rate = fields["rate_hz"]
    return "\n".join(
        [
            f"# {fields['name']}",
            "",
            f"Made {fields['created_utc']} with kinedge {fields['kinedge_version']}.",
            "",
            "## Intended use",
            "",
            fields["intended_use"],
            "",
            "## What it expects and does",
            "",
            f"Sensors: {sensors}, in SI units, on a common grid of {rate:g} Hz. It predicts every channel "
            f"{', '.join(f'{h / rate * 1000:.0f} ms' for h in fields['horizons'])} ahead and looks back "
            f"{fields['receptive_field'] / rate:.1f} s; a verdict every {fields['hop'] / rate:g} s about the last "
            f"{fields['block'] / rate:g} s. {fields['n_parameters']:,} parameters.",
            "",
            "## Training",
            "",
            "| | |",
            "|---|---|",
            *rows(fields.get("training", {})),
            "",
            "## Measured",
            "",
            "| | |",
            "|---|---|",
            *rows(fields.get("quality", {})),
            "",
            "## What it is not",
            "",
            "A verdict says that movement differs from the cohort's ordinary movement, where, and how sure that is. It "
            "says nothing about the cause. People and days that differ from the cohort are flagged more often.",
            "",
        ]
    )
