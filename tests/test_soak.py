"""Two minutes of everything at once; ``make soak`` takes thirty."""

from __future__ import annotations

from pathlib import Path

import pytest
from soak import Soak


@pytest.mark.timeout(600)
def test_two_minutes_of_everything_leave_memory_flat_and_nothing_behind(tmp_path: Path) -> None:
    found = Soak(tmp_path, seconds=120).run()
    assert found["rss_flat"], found
    assert found["fds"][1] <= found["fds"][0] + 8
    assert found["always_alive"]
    assert found["verdicts_per_s"] > 0.8, found
    assert found["restarts"] <= found["restarts_told"], "no task began anew without a cause in the log"
    assert found["episodes"] >= 2
    assert (found["lost"], found["doubled"]) == (0, 0)
    assert found["recordings_trimmed"] >= 1
