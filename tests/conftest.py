"""What many tests share: the shipped model, and a simulated session for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import browser as browsers
import pytest
from database_server import Postgres

from kinedge.bundle import Bundle, read_bundle
from kinedge.edge.config import DEFAULT_BUNDLE
from kinedge.edge.scoring import Scorer
from kinedge.recording import Recording
from kinedge.training.simulate import SimulationConfig, simulate

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    """The model that ships with the package."""
    return read_bundle(DEFAULT_BUNDLE)


@pytest.fixture(scope="session")
def scorer(bundle: Bundle) -> Scorer:
    return Scorer(bundle)


@pytest.fixture(scope="session")
def person() -> Callable[..., Recording]:
    """Simulate a person that the shipped model has not seen."""

    def make(duration_s: float = 40.0, *, seed: int = 800_000) -> Recording:
        return simulate(SimulationConfig(duration_s=duration_s, subject_seed=seed, session_seed=seed))

    return make


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real recordings; tests that want them are skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("real recordings are not on this machine")
    return SHARED_DATA


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real PostgreSQL; ``new_url()`` makes an empty place for tables."""
    server = Postgres()
    yield server
    server.stop()


# Of a module, not of the session: while playwright runs, no other test of this process could start an event loop.
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium; skips where there is none."""
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra dev)")
    if browsers.CHROMIUM is None:
        pytest.skip("no chromium on this machine (Debian: apt install chromium)")
    with browsers.launched() as running:
        yield running
