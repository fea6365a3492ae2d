"""What many tests share: the shipped model, and a simulated session for it."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import browser as browsers
import pytest
from database_server import Postgres
from hypothesis import HealthCheck, settings

from kinedge.bundle import Bundle, read_bundle
from kinedge.edge.config import DEFAULT_BUNDLE
from kinedge.edge.scoring import Scorer
from kinedge.recording import Recording
from kinedge.training.simulate import SimulationConfig, simulate

# A busy machine draws slowly, which says nothing about what is tested.
settings.register_profile("kinedge", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("kinedge")

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


# What a board does not install (no torch for it, say). A test that needs one is skipped with the reason, unless a room
# that runs on boards asked for it: those must not.
OF_TRAINING = {"distributed", "griffe", "grimp", "matplotlib", "onnxscript", "openvino", "pyod", "pysad", "river"}
OF_TRAINING |= {"sklearn", "torch"}
ON_BOARDS = {"core", "edge", "firmware_bridge", "upstream"}


def missing_here(error: BaseException | None) -> str:
    """Name the library that a test lacks rightly; empty when there is none, or a board would have asked for it."""
    while error is not None:
        name = (getattr(error, "name", None) or "").partition(".")[0]
        if isinstance(error, ModuleNotFoundError) and name in OF_TRAINING:
            files = [Path(frame.f_code.co_filename) for frame, _ in traceback.walk_tb(error.__traceback__)]
            asked = [f for f in files if "importlib" not in str(f) and "_pytest" not in f.parts]
            on_boards = asked and (ON_BOARDS & set(asked[-1].parts[-4:-1]) or asked[-1].parent.name == "kinedge")
            return "" if on_boards else name
        error = error.__cause__ or error.__context__
    return ""


class ModuleOfThisMachine(pytest.Module):
    """A module of tests, skipped where it imports what a board does not install."""

    def _getobj(self) -> Any:
        try:
            return super()._getobj()
        except self.CollectError as e:
            if name := missing_here(e):
                pytest.skip(f"{name} is not installed here", allow_module_level=True)
            raise


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module:
    return ModuleOfThisMachine.from_parent(parent, path=module_path)


def skipped_where_it_lacks() -> Iterator[None]:
    try:
        return (yield)
    except Exception as e:
        if name := missing_here(e):
            pytest.skip(f"{name} is not installed here")
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Iterator[None]:
    return (yield from skipped_where_it_lacks())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    return (yield from skipped_where_it_lacks())
