"""Where the surprise starts: the share of each channel and sensor, in closed form.

``drop``: with ``P`` the precision of the residuals on normal movement and ``y = P z``, ``y_c^2 / P_cc`` is exactly
how far ``z' P z`` falls when channel ``c`` is replaced by what the others make expected: a counterfactual in
closed form. ``additive``: nats above what is usual at this intensity, since the log-likelihoods of channels add up.
Which of the two is used was chosen on validation data and is stored with the calibration. Neither is a cause; it is
where the surprise starts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kinedge.edge.calibration import Calibration, Unusualness
from kinedge.edge.scores import BlockScores

__all__ = ["attribute"]

F64 = NDArray[np.float64]


def attribute(
    scores: BlockScores, unusual: Unusualness, calibration: Calibration, groups: Sequence[slice]
) -> tuple[F64, F64]:
    """Split the surprise of each stream's block.

    Parameters
    ----------
    scores, unusual
        Of the block.
    calibration
        Chooses the method.
    groups
        Columns of each sensor.

    Returns
    -------
    channel_share : (n_streams, n_channels)
        Sums to 1, or all 0 where nothing was scored.
    sensor_share : (n_streams, n_sensors)
    """
    energy = np.maximum(unusual.excess, 0.0) if calibration.additive[0] else scores.drop
    total = energy.sum(axis=1, keepdims=True)
    channel = np.where(total > 0, energy / np.where(total > 0, total, 1.0), 0.0)
    sensor = np.stack([channel[:, group].sum(axis=1) for group in groups], axis=1)
    return channel, sensor
