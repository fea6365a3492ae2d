"""Streams cut anywhere, with a state that is kept and taken back on the way, for tests of detectors."""

from __future__ import annotations

import copy
import itertools

import numpy as np

from kinedge.training.detectors.interface import Detector

__all__ = ["assert_any_cut_gives_the_same_bits"]


def assert_any_cut_gives_the_same_bits(detector: Detector, x: np.ndarray, cuts: list[int], *, every: int) -> None:
    """Compare samples (n, C) in one piece with the same cut, and one by one; scores and state, to the bit.

    At pieces that begin at a multiple of ``every`` the state goes to a copy of the detector, which goes on.
    """
    fresh = detector.state
    whole = detector.step(x)
    end = detector.state
    for edges in ([0, *sorted(set(cuts)), len(x)], list(range(len(x) + 1))):
        detector.restore(fresh)
        parts = []
        for a, b in itertools.pairwise(edges):
            parts.append(detector.step(x[a:b]))
            if a % every == 0:
                kept, detector = detector.state, copy.deepcopy(detector)
                detector.restore(kept)
        np.testing.assert_array_equal(np.concatenate(parts), whole)
        for name, value in detector.state.items():
            np.testing.assert_array_equal(value, end[name], err_msg=name)
