"""Typed functions of ``belief.c``: from block scores to belief and attribution."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.native.loader import typed
from kinedge.edge.native.record import DOUBLE, INT64, POINTER, Record, structure

__all__ = ["NativeBelief", "Told"]

F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]

_TOLD: Final = ("knots", "center", "spread", "likelihood", "of_one")  # of a calibration
_CALIBRATION: Final = "knots center spread likelihood of_one reference n_finite which own_knots"
_LINES: Final = "mix levels low middle high"
_WEIGHTS: Final = "usual late_scale late_usual late_weight further"
_RENAMED: Final = "coordination_weight likelihood_apart"
_APART: Final = "reference_apart n_finite_apart which_apart"
_BY_STREAM: Final = f"which own_knots which_apart {_LINES} {_WEIGHTS} {_RENAMED}"
_OF_STREAMS: Final = (*_TOLD, *_BY_STREAM.split())
_SHOWN: Final = (
    "shown shown_squares shown_weight channel_shown channel_shown_squares coordination_shown coordination_shown_squares"
)
_STATE: Final = f"log_odds beyond doubted_s lost {_SHOWN} channel_share sensor_share"
_Belief: Final = structure(
    "_Belief",
    (INT64, "n_streams n_rows n_channels n_sensors n_knots n_reference n_references own has_health has_clock"),
    (INT64, "by_excess leave_out n_levels n_apart n_references_apart"),
    (DOUBLE, "unscored below movement_limit no_data half trusted lr_limit weight keep odds_limit hop_s long_s"),
    (DOUBLE, "lately_s swapped_left harmless hopeless min_anomalous min_normal min_others alpha tiny"),
    (DOUBLE, "keep_own min_newcomer alpha_newcomer sure_newcomer learned at_most little"),
    (DOUBLE, "unlike_from unlike_spread unlike_most most_beyond no_step untold"),
    (DOUBLE, "most_shared least_u"),
    (POINTER, f"starts {_CALIBRATION} {_LINES} {_WEIGHTS} {_RENAMED} {_APART}"),
    (POINTER, "channel drop intensity before missing saturated scored flat full late"),
    (POINTER, "repeated clipped off_body units held swapped shifted clock_ms copies rows"),
    (POINTER, f"{_STATE} work of_channels of_sensors of_streams decision without"),
)
_STATES: Final = _STATE.split()
_OF_HEALTH: Final = ("repeated", "clipped", "off_body", "units", "held", "swapped", "shifted")
_FUNCTIONS: Final = tuple(f"kinedge_belief_{name}" for name in ("assess", "trust", "gather", "decide"))
_MOST_SENSORS: Final = 64
_MOST_CHANNELS: Final = 1024
_FEW_KNOTS: Final = 8  # of a single channel: of more, numpy adds up in another order


class Told(NamedTuple):
    """What was found of some streams.

    Parameters
    ----------
    of_channels : (3, n_streams, n_channels)
        Excess, ``u``, share.
    of_sensors : (8, n_streams, n_sensors)
        ``u``, movement, share, reliability, lost, one to work in, withheld and unlike.
    of_streams : (10, n_streams)
        Score, p-value, normal, anomalous, lean, one to work in, decisive, others, fresh, brought.
    decision, without
    """

    of_channels: F64
    of_sensors: F64
    of_streams: F64
    decision: NDArray[np.int8]
    without: Mask


@cache
def _functions() -> tuple[Any, ...] | None:
    return typed(dict.fromkeys(_FUNCTIONS, (POINTER,)))


class NativeBelief:
    """Judgement by one model in C.

    Parameters
    ----------
    numbers, arrays
        Sizes, factors and constants, by their names in ``belief.c``.
    powers
        To which what is left after loss, and after saturation, is taken.
    """

    def __init__(self, numbers: Mapping[str, float], *, powers: tuple[float, float], **arrays: NDArray[Any]) -> None:
        self.record = Record(_Belief)
        self.record.set(numbers, **arrays)
        self._n_channels, self._n_sensors = int(numbers["n_channels"]), int(numbers["n_sensors"])
        self._fits = self._n_sensors <= _MOST_SENSORS and self._n_channels <= _MOST_CHANNELS
        self.powers = powers
        self._calibration: object = None
        self._reference: object = None
        self._n_finite = np.zeros(0, np.int64)
        self._apart: object = None
        self._n_finite_apart = np.zeros(0, np.int64)

    def tell(self, state: Any) -> bool:
        """Tell a state; False where C cannot do this model, or cannot write the state as it lies."""
        return self._fits and self.record.set_state(state, _STATES)

    @staticmethod
    def is_there() -> bool:
        """Whether the library is."""
        return _functions() is not None

    def use(self, calibration: Any) -> bool:
        """Tell the calibration, if it is another one; whether numpy and C add up alike with it."""
        if self._calibration is calibration:
            return True
        own = calibration.which is not None
        knots, reference = calibration.knots, np.atleast_2d(calibration.reference)
        n_knots = knots.shape[-2]
        if self._n_channels == 1 and n_knots > _FEW_KNOTS:
            return False
        if self._reference is not calibration.reference:
            every = np.isfinite(reference) if own else np.ones(reference.shape, bool)
            self._reference, self._n_finite = calibration.reference, every.sum(axis=1)
        arrays = {name: getattr(calibration, name) for name in _TOLD}
        arrays["reference"] = reference
        together = calibration.coordination
        if together is not None:
            of_lines, of_weights = (
                {name: getattr(part, name) for name in names.split()}
                for part, names in ((together.lines, _LINES), (together.weights, _WEIGHTS))
            )
            apart = np.atleast_2d(together.weights.reference)
            if self._apart is not together.weights.reference:
                every = np.isfinite(apart) if own else np.ones(apart.shape, bool)
                self._apart, self._n_finite_apart = together.weights.reference, every.sum(axis=1)
            arrays |= of_lines | of_weights | {"reference_apart": apart, "n_finite_apart": self._n_finite_apart}
            arrays |= dict(zip(_RENAMED.split(), (together.weights.weight, together.weights.likelihood), strict=True))
        self.record.set(
            {
                "own": own,
                "n_knots": n_knots,
                "n_reference": reference.shape[1],
                "n_references": len(reference),
                "by_excess": bool(calibration.additive[0]),
                "n_levels": 0 if together is None else together.lines.levels.shape[-2],
                "n_apart": 0 if together is None else arrays["reference_apart"].shape[1],
                "n_references_apart": 0 if together is None else len(arrays["reference_apart"]),
            },
            n_finite=self._n_finite,
            which=np.ascontiguousarray(calibration.which) if own else None,
            own_knots=np.ascontiguousarray(calibration.own_knots) if own else None,
            which_apart=np.ascontiguousarray(together.which) if own and together is not None else None,
            **{name: np.ascontiguousarray(array) for name, array in arrays.items()},
        )
        self._calibration = calibration
        return True

    def step(
        self, scores: Any, calibration: Any, state: Any, rows: NDArray[np.intp], health: Any, clock_ms: F64 | None
    ) -> Told | None:
        """Judge the blocks of some streams, and write what is remembered; None where numpy must do it.

        Parameters
        ----------
        scores, calibration, health, clock_ms
            ``BlockScores``, ``Calibration`` and ``SensorHealth`` of these streams, as ``believe`` takes them.
        state
            A ``BeliefState`` of all streams.
        rows : (n_streams,)
            Which of them these are.
        """
        functions, n, record = _functions(), len(rows), self.record
        if functions is None or not self._fits or not self.use(calibration):
            return None
        if not record.set_state(state, _STATES):
            return None
        given = {
            "channel": scores.channel,
            "drop": scores.drop,
            "intensity": scores.intensity,
            "before": scores.before,
            "missing": scores.missing,
            "saturated": scores.saturated,
            "scored": scores.scored,
            "flat": scores.flat,
            "full": scores.full,
            "late": scores.late,
            "rows": rows,
        }
        if health is not None:
            given |= {name: getattr(health, name) for name in _OF_HEALTH}
            given["copies"] = health.copy
        if clock_ms is not None:
            given["clock_ms"] = clock_ms
        if not all(a.flags.c_contiguous and len(a) == n for a in given.values()):
            return None
        sensors = (n, self._n_sensors)
        work, told = np.empty((7, *sensors)), self._blank(n)
        record.set(
            {"n_streams": n, "has_health": health is not None, "has_clock": clock_ms is not None},
            work=work,
            **given,
            **told._asdict(),
        )
        assess, trust, gather, decide = functions
        if assess(record.at):
            return None
        for left, power in zip(work[:2], self.powers, strict=True):
            np.power(left, power, out=left)
        faded, found = work[2:4], work[4:]
        np.exp(faded, out=faded)
        trust(record.at)
        np.log(faded, out=faded)
        gather(record.at)
        np.exp(found, out=found)
        decide(record.at)
        lean, beyond = told.of_streams[4:6]
        np.log(told.of_streams[4:6], out=told.of_streams[4:6])
        lean += beyond
        lean *= 0.5
        if calibration.which is not None:
            self.forget_streams()
        return told

    def forget_streams(self) -> None:
        """Keep no longer what was told of the streams of a step: those of the next may be others."""
        self.record.forget(*_OF_STREAMS)
        self._calibration = None

    def _blank(self, n: int) -> Told:
        return Told(
            np.empty((3, n, self._n_channels)),
            np.empty((8, n, self._n_sensors)),
            np.empty((10, n)),
            np.empty(n, np.int8),
            np.empty((n, self._n_sensors), bool),
        )
