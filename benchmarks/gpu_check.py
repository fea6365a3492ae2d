"""What a machine with a GPU can run: train, hold every backend to the contract, time a hop, and say what was not run.

Every row has a ``status``: ``ran``, ``failed``, or ``not run`` with the reason in ``note``. On a machine without a GPU
the CPU's rows are measured and all others say so; the owner of a board runs the same command to fill them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import torch

from kinedge.benchmarks.harness import interleaved, result, timing_row
from kinedge.bundle import Bundle, read_bundle
from kinedge.edge.backends import NativeBackend, OnnxBackend, StreamingBackend
from kinedge.edge.backends.engine_cache import EngineCache
from kinedge.edge.backends.tensorrt import open_tensorrt
from kinedge.edge.backends.trt_build import Precision
from kinedge.edge.backends.trt_library import LibraryName, driver_problem, load_library
from kinedge.edge.config import DEFAULT_BUNDLE
from kinedge.errors import KinedgeError
from kinedge.quantize.build import BuildConfig, build_bundle
from kinedge.quantize.engines import compile_bundle, wanted
from kinedge.quantize.restore import restore_model
from kinedge.training.settings import FitConfig
from kinedge.training.simulate import SimulationConfig, simulate

__all__ = ["bench_gpu", "exit_status"]

Row = dict[str, Any]
Hop = Callable[[], object]

_LIBRARIES: Final[tuple[LibraryName, ...]] = ("tensorrt", "tensorrt-rtx")
_CONTRACT: Final = Path(__file__).resolve().parents[1] / "tests" / "test_backends_contract.py"
_KINDS: Final = ("onnx", "native", "onnx-cuda", *_LIBRARIES)


def exit_status(found: dict[str, Any]) -> int:
    """Return 0 when every row ran, 1 when one failed, 3 when some were not run."""
    states = {row["status"] for row in found["rows"]}
    return 1 if "failed" in states else 3 if "not run" in states else 0


def bench_gpu(
    bundle: Path | None = None,
    *,
    streams: Sequence[int] = (1, 16, 64, 256, 1024),
    n_rounds: int = 15,
    round_s: float = 0.05,
    contract: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Train, check and time whatever this machine has.

    Parameters
    ----------
    bundle
        What to time; a model trained here on simulated people when None.
    streams
        How many at once.
    n_rounds, round_s
        See ``interleaved``.
    contract
        Run the contract tests too; they are in the source tree, not in the wheel.
    progress
        Told what is being done.

    Returns
    -------
    dict
        Rows of ``train``, ``contract`` and ``hop``.

    Raises
    ------
    BundleError, BackendError
        The model does not load on the CPU.
    """
    rows: list[Row] = []
    trained: Bundle | None = None
    for device in ("cpu", "cuda"):
        progress(f"training on {device}")
        row, made = _train(device)
        rows.append(row)
        trained = made or trained
    loaded = read_bundle(bundle) if bundle is not None else trained
    if loaded is None:
        loaded = read_bundle(DEFAULT_BUNDLE)
    with tempfile.TemporaryDirectory(prefix="kinedge-gpu-") as folder:
        if contract:
            progress("contract of the backends")
            rows += _contract(Path(folder))
        cache = EngineCache(Path(folder) / "engines", key_file=Path(folder) / "key" / "engine.key")
        backends, missing = _backends(loaded, cache, max_streams=max(streams), progress=progress)
        for n in streams:
            progress(f"a hop of {n} streams")
            rows += _time(loaded, backends, n_streams=n, n_rounds=n_rounds, round_s=round_s)
    rows += [_not_run(what, note) for what, note in missing.items()]
    m = loaded.manifest
    settings = {
        "model": m.name,
        "parameters": m.n_parameters,
        "channels": m.n_channels,
        "samples_per_step": m.hop,
        "n_rounds": n_rounds,
        "round_s": round_s,
    }
    found = result("gpu", rows, settings=settings)
    found["machine"]["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else driver_problem()
    return found


def _not_run(what: str, note: str) -> Row:
    return {"what": what, "status": "not run", "note": note}


def _no_cuda() -> str:
    return driver_problem() or f"torch {torch.__version__} has no CUDA"


def _train(device: str) -> tuple[Row, Bundle | None]:
    """Train a small model on six simulated people, and say what it gained over the linear baseline."""
    what = f"train {device}"
    if device == "cuda" and not torch.cuda.is_available():
        return _not_run(what, _no_cuda()), None
    people = [simulate(SimulationConfig(subject_seed=seed, duration_s=70)) for seed in range(6)]
    fit = FitConfig.model_validate(
        {"max_epochs": 3, "steps_per_epoch": 30, "window": 192, "batch": 8, "device": device}
    )
    start = time.monotonic()
    try:
        built = build_bundle(people, BuildConfig(name="gpu-check", hop_s=1.0, fit=fit), command="kinedge bench gpu")
    except (KinedgeError, RuntimeError) as e:
        return {"what": what, "status": "failed", "note": str(e)}, None
    seconds = round(time.monotonic() - start, 2)
    quality = built.bundle.manifest.quality
    note = f"NLL {quality['validation_nll']:.3f}, linear {quality['validation_nll_linear_baseline']:.3f}; {seconds} s"
    return {"what": what, "status": "ran", "note": note}, built.bundle


def _contract(folder: Path) -> list[Row]:
    """Run the contract tests in a process of their own, with engines of the shipped model that are compiled for it."""
    if not _CONTRACT.is_file():
        return [_not_run(f"contract {kind}", "the tests are in the source tree, not in the wheel") for kind in _KINDS]
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "XDG_STATE_HOME": str(folder / "state")}
    cache = EngineCache(folder / "cache" / "kinedge" / "engines", key_file=folder / "state" / "kinedge" / "engine.key")
    problems: dict[str, str] = {}
    for name in _LIBRARIES:
        try:
            done = compile_bundle(read_bundle(DEFAULT_BUNDLE), load_library(name), cache, precisions=["fp32"])
            problems[name] = done[0].problem
        except KinedgeError as e:
            problems[name] = str(e)
    report = folder / "contract.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", str(_CONTRACT)]
    ran = subprocess.run(
        command, env=environment, cwd=_CONTRACT.parents[1], capture_output=True, text=True, check=False, timeout=1800
    )
    if not report.is_file():
        tail = (ran.stderr or ran.stdout)[-300:]
        return [{"what": f"contract {kind}", "status": "failed", "note": f"pytest: {tail}"} for kind in _KINDS]
    cases = list(ET.parse(report).getroot().iter("testcase"))
    return [_contract_row(kind, cases, problems.get(kind, "")) for kind in _KINDS]


def _contract_row(kind: str, cases: Sequence[ET.Element], problem: str) -> Row:
    outcomes: Counter[str] = Counter()
    reasons = []
    for case in cases:
        if f"[{kind}]" not in case.get("name", ""):
            continue
        bad = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        outcomes["passed" if bad is None else bad.tag] += 1
        if bad is not None:
            reasons.append(bad.get("message", "")[:200])
    counts = ", ".join(f"{n} {outcome}" for outcome, n in sorted(outcomes.items()))
    what = f"contract {kind}"
    if outcomes["failure"] or outcomes["error"]:
        return {"what": what, "status": "failed", "note": f"{counts}: {reasons[0]}"}
    if outcomes["skipped"] or not outcomes["passed"]:
        return _not_run(what, problem or (reasons[0] if reasons else "no test of it was found"))
    return {"what": what, "status": "ran", "note": counts}


def _backends(
    bundle: Bundle, cache: EngineCache, *, max_streams: int, progress: Callable[[str], None]
) -> tuple[dict[str, StreamingBackend], dict[str, str]]:
    """Open what is here; the rest with its reason."""
    found: dict[str, StreamingBackend] = {"onnxruntime cpu": OnnxBackend(bundle)}
    missing: dict[str, str] = {}
    try:
        found["native cpu"] = NativeBackend(bundle)
    except KinedgeError as e:
        missing["native cpu"] = str(e)
    if not torch.cuda.is_available():
        missing |= dict.fromkeys(("torch cuda", "torch cuda graph"), _no_cuda())
    try:
        problem = driver_problem()
        if problem is not None:
            missing["onnxruntime cuda"] = problem
        else:
            found["onnxruntime cuda"] = OnnxBackend(bundle, device="cuda")
    except KinedgeError as e:
        missing["onnxruntime cuda"] = str(e)
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    for name in _LIBRARIES:
        for precision in precisions:
            what = f"{name} {precision}"
            if precision not in wanted(bundle, ()):
                missing[what] = f"the bundle {bundle.manifest.name} has no {precision} graph"
                continue
            try:
                progress(f"building {what}")
                library = load_library(name)
                done = compile_bundle(bundle, library, cache, precisions=[precision], max_streams=max_streams)
                problem = next(c.problem for c in done if c.precision == precision)
                if problem:
                    missing[what] = problem
                    continue
                found[what] = open_tensorrt(
                    bundle, precision=precision, max_streams=max_streams, library_name=name, cache=cache
                )
            except KinedgeError as e:
                missing[what] = str(e)
    return found, missing


def _time(
    bundle: Bundle,
    backends: dict[str, StreamingBackend],
    *,
    n_streams: int,
    n_rounds: int,
    round_s: float,
) -> list[Row]:
    """Time a hop, samples from the host and predictions back to it, the state where the contender keeps it."""
    m = bundle.manifest
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n_streams, m.hop, m.n_channels)).astype(np.float32)
    mask = np.ones_like(x)
    reference = backends["onnxruntime cpu"].step(x, mask, np.zeros((n_streams, m.state_size), np.float32))
    hops: dict[str, Hop] = {}
    errors: dict[str, float] = {}
    rows: list[Row] = []
    for what, backend in backends.items():
        try:
            kept = backend.allocate(n_streams)
            errors[what] = _difference(kept.step(x, mask), reference)
        except KinedgeError as e:
            rows.append({"what": what, "streams": n_streams, "status": "failed", "note": str(e)})
            continue
        hops[what] = lambda kept=kept: kept.step(x, mask)  # type: ignore[misc]
    for what, make in (("torch cpu", _eager("cpu")), ("torch cuda", _eager("cuda")), ("torch cuda graph", _graph)):
        if "cuda" in what and not torch.cuda.is_available():
            continue
        try:
            hop = make(bundle, x, mask)
            errors[what] = _difference(cast("tuple[np.ndarray, np.ndarray]", hop()), reference)
        except (KinedgeError, RuntimeError) as e:
            rows.append({"what": what, "streams": n_streams, "status": "failed", "note": str(e)})
            continue
        hops[what] = hop
    for what, timing in interleaved(hops, n_rounds=n_rounds, round_s=round_s).items():
        note = f"differs from onnxruntime cpu by {errors[what]:.1e} of the largest value"
        row = timing_row(what, timing, streams=n_streams)
        rows.append(
            {**row, "us_per_sample": round(timing.median_us / (n_streams * m.hop), 4), "status": "ran", "note": note}
        )
    return rows


def _difference(found: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> float:
    pairs = list(zip(found[:2], reference[:2], strict=True))
    return max(float(np.abs(a - b).max()) / float(np.abs(b).max()) for a, b in pairs)


def _eager(device: str) -> Callable[[Bundle, np.ndarray, np.ndarray], Hop]:
    def make(bundle: Bundle, x: np.ndarray, mask: np.ndarray) -> Hop:
        model = restore_model(bundle.model_bytes(), bundle.manifest).to(device).eval()
        state = model.initial_state(len(x))

        def hop() -> tuple[np.ndarray, np.ndarray]:
            nonlocal state
            with torch.inference_mode():
                mu, log_sigma, state = model(torch.from_numpy(x).to(device), torch.from_numpy(mask).to(device), state)
                return mu.cpu().numpy(), log_sigma.cpu().numpy()

        return hop

    return make


def _graph(bundle: Bundle, x: np.ndarray, mask: np.ndarray) -> Hop:
    """The torch model as one CUDA graph, its state overwritten in place at the end of it."""
    model = restore_model(bundle.model_bytes(), bundle.manifest).to("cuda").eval()
    state = model.initial_state(len(x))
    given = [torch.from_numpy(a).cuda() for a in (x, mask)]
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.inference_mode():
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                model(*given, state)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            mu, log_sigma, after = model(*given, state)
            state.copy_(after)

    def hop() -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode():
            for target, source in zip(given, (x, mask), strict=True):
                target.copy_(torch.from_numpy(source))
            graph.replay()
            return mu.cpu().numpy(), log_sigma.cpu().numpy()

    return hop
