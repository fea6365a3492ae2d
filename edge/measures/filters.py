"""Linear filters as matrix products over one second: no loop over samples, and the same bits for any chunking.

A recursive filter is ``state' = A state + B x``, ``y = C state + D x`` for each sample. Over a block of ``L`` samples
that is four fixed matrices, worked out once: ``y = H x + O state`` and ``state' = P state + Q x``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinedge.errors import SignalError

__all__ = ["BlockFilter", "Resampler", "high_pass", "trailing_mean"]

F64 = NDArray[np.float64]

_HALF_WIDTH: Final = 8  # zero crossings of the resampling kernel on each side
_ROOM: Final = 0.9  # of the lower Nyquist frequency that the kernel passes


@dataclass(frozen=True, eq=False)
class BlockFilter:
    """A recursive filter over blocks of fixed length; make it with ``of``.

    Parameters
    ----------
    direct : (length, length)
        Output of the block's own input.
    onward : (length, order)
        Output of the state before it.
    forget : (order, order)
        The state before it in the state after it.
    learn : (order, length)
        The input in the state after it.
    rest : (order,)
        State after an endless input of 1.
    """

    direct: F64
    onward: F64
    forget: F64
    learn: F64
    rest: F64

    @classmethod
    def of(cls, b: F64, a: F64, *, length: int) -> BlockFilter:
        """Make the filter ``a[0] y[n] + a[1] y[n-1] + ... = b[0] x[n] + b[1] x[n-1] + ...``.

        Raises
        ------
        SignalError
            The lengths differ, or ``a[0]`` is 0.
        """
        if len(a) != len(b) or len(a) < 2 or a[0] == 0:
            raise SignalError("a filter needs as many a as b, at least 2, and a[0] other than 0")
        b, a = np.asarray(b, np.float64) / a[0], np.asarray(a, np.float64) / a[0]
        order = len(a) - 1
        # transposed direct form II
        step = np.zeros((order, order))
        step[:, 0] = -a[1:]
        step[:-1, 1:] += np.eye(order - 1)
        feed = b[1:] - a[1:] * b[0]
        powers = [np.eye(order)]
        for _ in range(length):
            powers.append(step @ powers[-1])
        onward = np.stack([p[0] for p in powers[:length]])
        answer = np.array([b[0], *(p[0] @ feed for p in powers[: length - 1])])
        lag = np.subtract.outer(np.arange(length), np.arange(length))
        return cls(
            direct=np.where(lag >= 0, answer[np.maximum(lag, 0)], 0.0),
            onward=onward,
            forget=powers[length],
            learn=np.stack([powers[length - 1 - k] @ feed for k in range(length)], axis=1),
            rest=np.linalg.solve(np.eye(order) - step, feed),
        )

    def resting_at(self, x: F64) -> F64:
        """Return the state (order, n) after an endless input of ``x`` (n,)."""
        rest: F64 = np.outer(self.rest, x)
        return rest

    def step(self, x: F64, state: F64) -> tuple[F64, F64]:
        """Filter one block ``x`` (length, n) from ``state`` (order, n)."""
        return self.direct @ x + self.onward @ state, self.forget @ state + self.learn @ x


def high_pass(cutoff_hz: float, rate_hz: int) -> BlockFilter:
    """Return a first-order Butterworth high-pass over blocks of one second."""
    k = math.tan(math.pi * cutoff_hz / rate_hz)
    return BlockFilter.of(np.array([1.0, -1.0]) / (1 + k), np.array([1.0, (k - 1) / (k + 1)]), length=rate_hz)


@dataclass(frozen=True, eq=False)
class Resampler:
    """Windowed-sinc resampling of whole seconds to another whole rate, delayed by half its kernel.

    Parameters
    ----------
    weights : (rate_out, n_history + rate_in)
        Rows are outputs; columns are the samples before the second and its own.
    n_history
        Samples before the second that are needed; the output is delayed by half of them.
    """

    weights: F64
    n_history: int

    @classmethod
    def between(cls, rate_in: int, rate_out: int) -> Resampler:
        """Make the resampler from one whole rate to another."""
        cutoff = _ROOM * min(rate_in, rate_out) / 2
        half = math.ceil(_HALF_WIDTH * rate_in / (2 * cutoff))
        at = np.arange(rate_out)[:, None] * rate_in / rate_out + half  # of the delayed output, in input samples
        distance = np.arange(2 * half + rate_in)[None, :] - at
        inside = np.abs(distance) <= half
        weights = np.sinc(2 * cutoff / rate_in * distance) * np.where(
            inside, 0.5 + 0.5 * np.cos(math.pi * distance / half), 0.0
        )
        return cls(weights / weights.sum(axis=1, keepdims=True), 2 * half)

    def step(self, x: F64, history: F64) -> tuple[F64, F64]:
        """Resample one second ``x`` (rate_in, n) after ``history`` (n_history, n)."""
        window = np.vstack([history, x])
        return self.weights @ window, window[len(x) :]


def trailing_mean(x: F64, history: F64, *, width: int) -> tuple[F64, F64]:
    """Return the mean over the last ``width`` samples at each row of ``x`` (n, k), and the history for the next call.

    ``history`` is (width - 1, k).
    """
    window = np.vstack([history, x])
    means: F64 = np.lib.stride_tricks.sliding_window_view(window, width, axis=0).mean(axis=-1)
    return means, window[len(x) :]
