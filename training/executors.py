"""Where a fleet runs: processes of this machine, or a Dask cluster; both are ``concurrent.futures.Executor``."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, Final

from kinedge.errors import ConfigError

__all__ = ["dask_executors", "process_executors"]

# One thread each: a small model gains nothing from more, and two programs that spin for each other lose tenfold.
_ONE_THREAD: Final = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}


@contextmanager
def process_executors(n_workers: int) -> Iterator[tuple[Callable[[], Executor], int]]:
    """Give a maker of process pools, and how many tasks they take at a time.

    Workers are started anew rather than forked (torch holds locks and threads), with one thread each; libraries read
    that from the environment when they are loaded, so it is set there while the pools live.
    """
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(_ONE_THREAD)
    try:
        yield lambda: ProcessPoolExecutor(n_workers, mp_context=multiprocessing.get_context("spawn")), n_workers
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def dask_executors(address: str, *, timeout_s: float = 30.0) -> Iterator[tuple[Callable[[], Executor], int]]:
    """Give the executor of a Dask cluster, and how many tasks its workers take at a time.

    Dask itself gives the work of a lost worker to another. The workers need kinedge with its extra ``train``, the same
    versions as here, and ``OMP_NUM_THREADS=1`` (Dask's nannies set it).

    Raises
    ------
    ConfigError
        ``distributed`` is not installed, nobody answers at the address, or the cluster has no worker.
    """
    try:
        from distributed import Client
    except ModuleNotFoundError as e:
        raise ConfigError(f"{e.name} is not installed; Dask needs: pip install 'kinedge[dask]'") from e
    try:
        client: Any = Client(address, timeout=timeout_s, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, TypeError) as e:
        raise ConfigError(f"no Dask scheduler answers at {address!r} ({e}); expected such as tcp://host:8786") from e
    with client:
        n_workers = sum(client.nthreads().values())
        if not n_workers:
            raise ConfigError(f"the Dask cluster at {address} has no worker; start one: dask worker {address}")
        # every task is a different one, also when its arguments look alike
        yield lambda: client.get_executor(pure=False), n_workers
