"""Two weeks without a network by a simulated clock: the queue drains in bounded memory, the newest episodes first.

Here with a part of the 20,000 that ``make offline`` queues.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from offline import Offline

N = 800


def test_two_weeks_offline_end_with_the_newest_first_and_all_of_them(tmp_path: Path) -> None:
    found = asyncio.run(Offline(tmp_path, N, newest_first_above=100, trace=True).run())
    assert found["waiting"] == 2 * N, "an episode and its raw slice each"
    assert found["days"] >= 14
    assert 100 < found["tried_offline"] < 1000 * found["days"], "back-off holds the radio still"
    assert (found["arrived"], found["doubled"], found["altered"], found["left"]) == (N, 0, 0, 0)
    assert found["newest_first"], "what happened last is what somebody must look at"
    assert found["python_peak_mb"] < 8
