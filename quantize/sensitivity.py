"""Which layers bear int8: each is quantised alone, then they are joined, the least sensitive first, within a budget.

The yardstick is the score, not the weights: how far the mean negative log-likelihood of every channel and hop moves
from that of the graph in single precision, relative to how much it varies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kinedge.bundle import Bundle
from kinedge.edge.backends import OnnxBackend
from kinedge.edge.engine import Engine, Surprise
from kinedge.edge.gaps import Gaps
from kinedge.errors import SignalError
from kinedge.quantize.int8 import Grid, layers_of, load, quantise
from kinedge.recording import Recording
from kinedge.training.windows import Normalisation, filled

__all__ = [
    "LayerError",
    "ScoreError",
    "Sweep",
    "excerpts",
    "feed_of",
    "plot_svg",
    "sweep",
    "with_graph",
]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

_EXCERPT_S: Final = 60.0


def excerpts(recordings: Sequence[Recording], *, total_s: float) -> list[Recording]:
    """Take at most a minute of each recording, from its middle, evenly from all of them up to ``total_s``."""
    n = max(1, min(len(recordings), int(total_s / _EXCERPT_S)))
    picked = [recordings[i] for i in np.linspace(0, len(recordings) - 1, n).astype(int)] if recordings else []
    pieces = []
    for recording in picked:
        length = min(len(recording), round(_EXCERPT_S * recording.rate_hz))
        start = (len(recording) - length) // 2
        pieces.append(recording.slice(start, start + length))
    return pieces


def feed_of(recording: Recording, bundle: Bundle) -> dict[str, F32]:
    """Return what a graph is given for a whole recording: ``x``, ``mask`` and a ``state`` that has seen nothing."""
    m = bundle.manifest
    normalisation = Normalisation(np.array(m.center, np.float32), np.array(m.scale, np.float32), m.clip)
    x, mask = normalisation.apply(recording.values, recording.valid)
    x = filled(x, mask, Gaps(m.hold_s, m.rate_hz))
    return {"x": x[None], "mask": mask[None], "state": np.zeros((1, m.state_size), np.float32)}


def with_graph(bundle: Bundle, graph: bytes, *, precision: str) -> Bundle:
    """Return the bundle with one more graph; in memory only, it has no digest of its own yet."""
    name = f"model.{precision}.onnx"
    manifest = bundle.manifest.model_copy(update={"precisions": {**bundle.manifest.precisions, precision: name}})
    return replace(bundle, manifest=manifest, parts={**bundle.parts, name: graph})


class ScoreError:
    """Measures how far a graph's scores are from those in single precision, on recordings given once.

    Raises
    ------
    SignalError
        The recordings are too short to be scored.
    """

    def __init__(self, bundle: Bundle, recordings: Sequence[Recording]) -> None:
        self._bundle = bundle
        self._recordings = recordings
        self._reference = self._scores(OnnxBackend(bundle))
        if not np.isfinite(self._reference).any():
            raise SignalError("the recordings to compare scores on are too short, or all samples are missing")
        self._spread = float(np.nanstd(self._reference - np.nanmean(self._reference, axis=0)))

    def of(self, graph: bytes) -> float:
        """Return the root mean square of the differences over the standard deviation of the scores."""
        scores = self._scores(OnnxBackend(with_graph(self._bundle, graph, precision="int8"), precision="int8"))
        return float(np.sqrt(np.nanmean((scores - self._reference) ** 2))) / max(self._spread, 1e-9)

    def _scores(self, backend: OnnxBackend) -> F64:
        engine = Engine(self._bundle.manifest, backend)
        rows = []
        for recording in self._recordings:
            surprise, _ = engine.step(recording.values[None], recording.valid[None], engine.initial_state(1))
            rows.append(_hop_scores(surprise, self._bundle.manifest.hop))
        return np.concatenate(rows)


def _hop_scores(surprise: Surprise, hop: int) -> F64:
    """Return the mean nats (n_hops, n_channels) of one stream, NaN where nothing was scored."""
    nats, valid = surprise.nats[0], surprise.valid[0]
    n = len(nats) // hop
    shape = (n, hop * nats.shape[1], nats.shape[2])
    total = nats[: n * hop].reshape(shape).sum(axis=1, dtype=np.float64)
    count = valid[: n * hop].reshape(shape).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


@dataclass(frozen=True)
class LayerError:
    """Score error with this layer alone in int8, whether it is int8 in the end, and the error of all that are so far.

    ``joined`` is what was measured with the layer added to those chosen before it, also when it was then left out.
    """

    layer: str
    alone: float
    joined: float
    int8: bool


@dataclass(frozen=True)
class Sweep:
    """What was measured, least sensitive layer first; ``error`` is that of the layers chosen, together."""

    rows: tuple[LayerError, ...]
    error: float
    budget: float

    @property
    def int8(self) -> tuple[str, ...]:
        """Layers in int8."""
        return tuple(row.layer for row in self.rows if row.int8)

    @property
    def kept_in_float(self) -> tuple[str, ...]:
        """Layers in single precision."""
        return tuple(row.layer for row in self.rows if not row.int8)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON's values."""
        rows = [
            {"layer": r.layer, "alone": round(r.alone, 6), "joined": round(r.joined, 6), "int8": r.int8}
            for r in self.rows
        ]
        return {"budget": self.budget, "error": round(self.error, 6), "layers": rows}


def sweep(
    graph: bytes,
    grids: Mapping[str, float | Grid],
    error: ScoreError,
    *,
    budget: float,
    progress: Callable[[str], None] | None = None,
) -> Sweep:
    """Quantise every layer alone; then join them, the least sensitive first, as long as the error keeps within budget.

    Parameters
    ----------
    graph, grids
        In single precision, and how each layer would be rounded.
    error
        On recordings that are neither trained nor tested on.
    budget
        Largest score error allowed.
    """
    say = progress or (lambda layer: None)
    alone = {}
    for layer in layers_of(load(graph).graph):
        say(layer.name)
        alone[layer.name] = error.of(quantise(graph, grids, layers=[layer.name]))
    rows: list[LayerError] = []
    chosen: list[str] = []
    reached = 0.0
    for name in sorted(alone, key=lambda n: alone[n]):
        say(name)
        joined = error.of(quantise(graph, grids, layers=[*chosen, name])) if alone[name] <= budget else alone[name]
        fits = joined <= budget
        if fits:
            chosen.append(name)
            reached = joined
        rows.append(LayerError(name, alone[name], joined, fits))
    return Sweep(tuple(rows), reached, budget)


def plot_svg(result: Sweep) -> str:
    """Draw the sweep: a bar for each layer alone, on a logarithmic axis, filled where the layer is int8."""
    left, width, row = 90, 420, 24
    height = row * len(result.rows) + 70
    values = [max(r.alone, 1e-7) for r in result.rows] + [max(result.budget, 1e-7)]
    low = np.floor(np.log10(min(values)))
    high = max(np.ceil(np.log10(max(values))), low + 1)

    def x(value: float) -> float:
        return left + width * float((np.log10(max(value, 1e-7)) - low) / (high - low))

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 90} {height}" role="img" '
        'font-family="sans-serif" font-size="12">',
        "<title>Score error with one layer alone in int8</title>",
        f'<text x="{left}" y="16">score error, layer alone in int8 (filled: int8; outlined: stays in float)</text>',
    ]
    for i, r in enumerate(result.rows):
        y = 28 + i * row
        fill = "#1b6ca8" if r.int8 else "none"
        lines.append(f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{r.layer}</text>')
        lines.append(
            f'<rect x="{left}" y="{y}" width="{max(x(r.alone) - left, 1):.1f}" height="{row - 8}" fill="{fill}" '
            'stroke="#1b6ca8"/>'
        )
        lines.append(f'<text x="{x(r.alone) + 6:.1f}" y="{y + 13}">{r.alone:.2g}</text>')
    bottom = 28 + row * len(result.rows)
    at = x(result.budget)
    lines.append(f'<line x1="{at:.1f}" y1="22" x2="{at:.1f}" y2="{bottom}" stroke="#b03a2e" stroke-dasharray="4 3"/>')
    lines.append(f'<text x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">budget {result.budget:g}</text>')
    lines.append(f'<text x="{left}" y="{bottom + 34}">together: {result.error:.2g}</text>')
    return "\n".join([*lines, "</svg>", ""])
