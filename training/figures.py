"""Figures of the training report: Matplotlib without a window system, as SVG whose bytes depend on the content alone.

Colours tell apart under every kind of colour vision (Okabe & Ito 2008). "As usual" is blue, "different" orange and
"unsure" purple, which is used for nothing else.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from kinedge.edge.caution import Decision
from kinedge.signals import UNIT_OF, Quantity, quantity_of
from kinedge.training.evaluate import poisson_interval
from kinedge.training.loop import EpochRecord
from kinedge.training.study import Example, Study, SubjectFigures

__all__ = ["calibration", "example", "false_alarms", "loss_curves", "residuals", "student_t_quantiles"]

F64 = NDArray[np.float64]

BLUE, ORANGE, PURPLE, SKY, GREEN, GREY, INK = (
    "#0072B2", "#E69F00", "#CC79A7", "#56B4E9", "#009E73", "#8A8F98", "#20242B",
)  # fmt: skip
DECISION_COLOURS: Final = {Decision.NORMAL: BLUE, Decision.ANOMALOUS: ORANGE, Decision.UNSURE: PURPLE}
_STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "kinedge",
    "font.family": ["sans-serif"],
    "font.sans-serif": ["Helvetica", "Arial", "Liberation Sans", "DejaVu Sans", "sans-serif"],
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.color": "#E6E8EB",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
}
_AXIS_LINES: Final = {"x": (INK, "-"), "y": (SKY, "-"), "z": (GREEN, "-")}
_TITLES: Final = {Quantity.ACC: "acceleration", Quantity.GYR: "angular rate", Quantity.MAG: "magnetic field"}
_MAX_POINTS: Final = 1_500  # of a line


@contextmanager
def _drawing(width: float, height: float) -> Iterator[tuple[Figure, Callable[[], str]]]:
    """Give a figure (inches), and what turns it into SVG."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")

        def svg() -> str:
            out = io.StringIO()
            figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
            text = out.getvalue()
            return text[text.index("<svg") :]

        yield figure, svg


def loss_curves(history: Sequence[EpochRecord], best_epoch: int) -> str:
    """Draw training and validation by epoch, against the linear baseline that training starts from."""
    with _drawing(7.2, 3.0) as (figure, svg):
        ax = figure.subplots()
        epochs = [r.epoch for r in history]
        ax.axhline(history[0].val_nll, color=GREY, linestyle="--", linewidth=1.1)
        ax.annotate(
            "linear baseline", (1, history[0].val_nll), xycoords=("axes fraction", "data"), xytext=(0, 3),
            textcoords="offset points", ha="right", color="#5C626B",
        )  # fmt: skip
        ax.plot(epochs, [r.train_nll for r in history], color=SKY, label="training (augmented crops)")
        ax.plot(epochs, [r.val_nll for r in history], color=BLUE, label="validation")
        ax.plot(best_epoch, history[best_epoch].val_nll, "o", color=BLUE, label=f"kept: epoch {best_epoch}")
        ax.set_xlabel("epoch")
        ax.set_ylabel("negative log-likelihood,\nnats per value")
        ax.set_xlim(0, max(1, epochs[-1]))
        ax.legend(loc="upper right", bbox_to_anchor=(1, 0.93))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        return svg()


def student_t_quantiles(nu: float, p: F64) -> F64:
    """Return the quantiles of Student's t with ``nu`` degrees of freedom at ``p``, to about four digits.

    The density is integrated on a grid that widens outwards: 1e-5 of the mass is reached for any ``nu`` above 2.
    """
    x = np.sinh(np.linspace(0.0, 9.0, 20_001))
    density = (1 + x * x / nu) ** (-(nu + 1) / 2)
    mass = np.concatenate([[0.0], np.cumsum(np.diff(x) * (density[1:] + density[:-1]) / 2)])
    upper = 0.5 + 0.5 * mass / mass[-1]
    found: F64 = np.sign(p - 0.5) * np.interp(0.5 + np.abs(p - 0.5), upper, x)
    return found


def residuals(study: Study, channels: Sequence[str], sensors: Sequence[str]) -> str:
    """Draw quantiles of standardised residuals against those of the Student-t the model claims, by quantity."""
    share = np.concatenate(
        [np.geomspace(1e-4, 0.05, 20), np.linspace(0.06, 0.94, 45), 1 - np.geomspace(0.05, 1e-4, 20)]
    )
    quantities = sorted({quantity_of(c.partition(".")[2]) for c in channels})
    colours = dict(zip(sensors, (BLUE, "#D55E00", GREEN, SKY, INK, "#F0E442", GREY) * 5, strict=False))
    with _drawing(7.2, 3.3) as (figure, svg):
        axes = figure.subplots(1, len(quantities), squeeze=False)[0]
        for ax, quantity in zip(axes, quantities, strict=True):
            limit = 1.0
            named: set[str] = set()
            for c, channel in enumerate(channels):
                sensor, _, kind = channel.partition(".")
                z = study.residuals[:, c].astype(np.float64)
                z = z[np.isfinite(z)]
                if quantity_of(kind) is not quantity or len(z) < 1000:
                    continue
                claimed, seen = student_t_quantiles(float(study.nu[c]), share), np.quantile(z, share)
                ax.plot(claimed, seen, color=colours[sensor], linewidth=1, label=None if sensor in named else sensor)
                named.add(sensor)
                limit = max(limit, float(np.abs(claimed).max()))
            ax.plot([-limit, limit], [-limit, limit], color=GREY, linestyle="--", linewidth=1)
            ax.set_xscale("symlog", linthresh=2)
            ax.set_yscale("symlog", linthresh=2)
            ax.set_title(
                {Quantity.ACC: "acceleration", Quantity.GYR: "angular rate", Quantity.MAG: "magnetic field"}[quantity]
            )
            ax.set_xlabel("quantile of the claimed Student-t")
        axes[0].set_ylabel("quantile seen, held-out people")
        axes[0].legend(loc="upper left")
        return svg()


def calibration(study: Study) -> str:
    """Draw, for each nominal p, the share of ordinary blocks at or below it: every subject, and all together."""
    nominal = np.geomspace(1e-3, 1.0, 61)
    with _drawing(5.2, 3.8) as (figure, svg):
        ax = figure.subplots()
        with_blocks = [s.p_values for s in study.subjects if len(s.p_values) >= 20]
        for i, p in enumerate(with_blocks):
            label = "one subject each" if i == 0 else None
            ax.plot(nominal, _shares(p, nominal), color=GREY, linewidth=0.8, alpha=0.7, label=label)
        if with_blocks:
            ax.plot(
                nominal, _shares(np.concatenate(with_blocks), nominal), color=BLUE, linewidth=2.2, label="all together"
            )
        ax.plot(nominal, nominal, color=INK, linestyle="--", linewidth=1, label="as promised")
        ax.set(xscale="log", yscale="log", xlim=(1e-3, 1), ylim=(1e-3, 1))
        ax.set_xlabel("nominal p")
        ax.set_ylabel("share of ordinary blocks at or below")
        ax.legend(loc="upper left")
        return svg()


def _shares(p: F64, nominal: F64) -> F64:
    shares = np.searchsorted(np.sort(p), nominal, side="right") / len(p)
    visible: F64 = np.where(shares > 0, shares, np.nan)
    return visible


def false_alarms(subjects: Sequence[SubjectFigures]) -> str:
    """Draw false episodes per hour with their 95 % interval, and what was said how often, by subject."""
    n = len(subjects)
    with _drawing(7.2, 1.1 + 0.24 * n) as (figure, svg):
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        rows = np.arange(n)[::-1]
        hours = np.array([max(s.metrics.hours, 1e-9) for s in subjects])
        rate = np.array([s.metrics.n_false for s in subjects]) / hours
        interval = np.array([poisson_interval(s.metrics.n_false) for s in subjects]) / hours[:, None]
        left.hlines(rows, interval[:, 0], interval[:, 1], color=GREY, linewidth=1.2)
        left.plot(rate, rows, "o", color=ORANGE, markersize=5)
        left.set_yticks(rows, [s.subject for s in subjects])
        left.set_xlabel("false episodes per hour, 95 % interval")
        left.set_xlim(left=0)
        unsure = np.array([s.metrics.n_unsure / max(s.metrics.n_verdicts, 1) for s in subjects])
        flagged = np.array([s.metrics.flagged_s / 3600 for s in subjects]) / hours
        flagged = np.minimum(flagged, 1 - unsure)
        right.barh(rows, 1 - unsure - flagged, color=BLUE, height=0.62, label="as usual")
        right.barh(rows, unsure, left=1 - unsure - flagged, color=PURPLE, height=0.62, label="unsure")
        right.barh(rows, flagged, left=1 - flagged, color=ORANGE, height=0.62, label="flagged")
        right.set_xlim(0, 1)
        right.set_xlabel("share of the time")
        right.grid(visible=False)
        left.set_ylim(-0.7, n - 0.3)
        figure.legend(*right.get_legend_handles_labels(), loc="outside upper right", ncols=3)
        return svg()


def example(shown: Example) -> str:
    """Draw a stretch: signals of one sensor with change and episode shaded, the verdicts, and the channels' shares."""
    recording = shown.recording
    spec = next(s for s in recording.sensors if s.name == shown.sensor)
    columns = recording.columns(shown.sensor)
    quantities = [q for q in (Quantity.ACC, Quantity.GYR) if any(quantity_of(c) is q for c in spec.channels)]
    every = max(1, len(recording) // _MAX_POINTS)
    time_s = np.arange(len(recording))[::every] / recording.rate_hz
    with _drawing(8.4, 1.25 * len(quantities) + 1.75) as (figure, svg):
        grid = figure.add_gridspec(
            len(quantities) + 1, 2, width_ratios=(4, 1), height_ratios=(*[1.25] * len(quantities), 1)
        )
        shared: Axes | None = None
        for row, quantity in enumerate(quantities):
            ax = figure.add_subplot(grid[row, 0], sharex=shared)
            shared = shared or ax
            for c, channel in enumerate(spec.channels):
                if quantity_of(channel) is quantity:
                    at = columns.start + c
                    values = np.where(recording.valid[:, at], recording.values[:, at], np.nan)[::every]
                    colour, line = _AXIS_LINES[channel[-1]]
                    ax.plot(time_s, values, color=colour, linestyle=line, linewidth=0.7, label=channel[-1])
            _shade(ax, shown)
            ax.set_ylabel(f"{quantity.name.lower()}, {UNIT_OF[quantity]}".replace("^2", "\N{SUPERSCRIPT TWO}"))
            ax.tick_params(labelbottom=False)
            if row == 0:
                ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0.1, handlelength=1.2)
        ax = figure.add_subplot(grid[-1, 0], sharex=shared)
        _verdict_strip(ax, shown)
        ax.set_xlabel("s")
        ax.set_xlim(0, recording.duration_s)
        _channel_bars(figure.add_subplot(grid[:, 1]), shown)
        return svg()


def _shade(ax: Axes, shown: Example) -> None:
    if shown.event is not None:
        ax.axvspan(*shown.event, facecolor="#D9DCE1", alpha=0.75, linewidth=0, zorder=0)
    for start, end in shown.episodes:
        ax.axvspan(start, end, ymax=0.05, facecolor=ORANGE, linewidth=0, zorder=3)


def _verdict_strip(ax: Axes, shown: Example) -> None:
    """Draw the score of each verdict, coloured by the answer."""
    _shade(ax, shown)
    for decision, colour in DECISION_COLOURS.items():
        of_it = [(t, max(min(v.score, 4.0), -0.5)) for t, v in shown.verdicts if v.decision is decision]
        if of_it:
            times, scores = np.array(of_it).T
            ax.vlines(times, -0.5, scores, color=colour, linewidth=2.2)
            marker = {Decision.NORMAL: "o", Decision.ANOMALOUS: "s", Decision.UNSURE: "D"}[decision]
            ax.plot(times, scores, marker, color=colour, markersize=3.2)
    ax.axhline(1, color=GREY, linestyle="--", linewidth=0.9)
    ax.set_ylim(-0.6, 4.2)
    ax.set_ylabel("score")


def _channel_bars(ax: Axes, shown: Example) -> None:
    top = sorted(shown.channel_share.items(), key=lambda item: -item[1])[:6]
    rows = np.arange(len(top))[::-1]
    ax.barh(rows, [share for _, share in top], color=INK, height=0.55)
    ax.set_yticks(rows, [""] * len(top))
    for row, (channel, _) in zip(rows, top, strict=True):
        ax.annotate(channel.replace(".", " "), (0, row + 0.33), fontsize=8, va="bottom", annotation_clip=False)
    ax.set_ylim(-0.6, len(top) - 0.1)
    ax.set_xlim(0, max(0.3, max((share for _, share in top), default=0.0)))
    ax.set_xlabel("share of the surprise")
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
