"""The parity proof as a table, in Markdown and in HTML."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from typing import Any, Final

__all__ = ["as_html", "as_markdown"]

_COLUMNS: Final[tuple[tuple[str, str, Callable[[float], str]], ...]] = (
    ("z_relative_rmse", "error of z (relative RMS)", lambda v: f"{v:.1e}"),
    ("z_max", "largest error of z", lambda v: f"{v:.1e}"),
    ("vus_pr", "VUS-PR, labelled", lambda v: f"{v:.4f}"),
    ("vus_pr_change", "change", lambda v: f"{v:+.4f}"),
    ("vus_pr_injected", "VUS-PR, injected", lambda v: f"{v:.4f}"),
    ("vus_pr_injected_change", "change", lambda v: f"{v:+.4f}"),
    ("flipped", "decisions flipped", lambda v: f"{v:.2%}"),
    ("flipped_injected", "flipped, injected", lambda v: f"{v:.2%}"),
    ("order_changed", "other sensor first", lambda v: f"{v:.2%}"),
    ("hit_at_1", "hit@1", lambda v: f"{v:.3f}"),
)


def _cells(row: Mapping[str, Any]) -> list[str]:
    if not row["run"]:
        return [row["form"], "not run", *([""] * (len(_COLUMNS) - 1))]
    return [row["form"], *("" if row[key] is None else show(row[key]) for key, _, show in _COLUMNS)]


def _caption(proof: Mapping[str, Any]) -> str:
    return (
        f"{proof['n_verdicts']} verdicts about {proof['hours']:g} h of {proof['subjects']} people the model had not "
        f"seen, {proof['n_injected']} pieces tampered with; reference: torch fp32."
    )


def as_markdown(proof: Mapping[str, Any]) -> str:
    """Write a proof (:meth:`kinedge.quantize.parity.Proof.to_dict`) as Markdown."""
    headings = ["form", *(title for _, title, _ in _COLUMNS)]
    rows = [headings, ["---"] * len(headings), *(_cells(r) for r in proof["rows"])]
    return "\n".join([_caption(proof), "", *("| " + " | ".join(r) + " |" for r in rows), ""])


def as_html(proof: Mapping[str, Any]) -> str:
    """Write a proof as one HTML table, to be put into a report."""
    headings = "".join(f"<th>{escape(t)}</th>" for t in ["form", *(title for _, title, _ in _COLUMNS)])
    body = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in _cells(r)) + "</tr>\n" for r in proof["rows"])
    return f"<table>\n<caption>{escape(_caption(proof))}</caption>\n<tr>{headings}</tr>\n{body}</table>\n"
