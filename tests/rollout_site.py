"""A publisher of models with a web server, a gateway's side of it, and a service that follows."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from kinedge.bundle import pack_bundle, read_bundle, write_bundle
from kinedge.cli import models_repository as repository
from kinedge.edge.config import DEFAULT_BUNDLE, GatewayConfig
from kinedge.edge.hostclock import HostClock
from kinedge.edge.rollout import ModelKeeper
from kinedge.edge.service import EdgeService
from kinedge.edge.verdict import Verdict
from kinedge.signing import generate_key, load_signing_key, sign_archive


class Site:
    """A publisher with a web server, and the gateway's side of the configuration."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.repo, self.keys = folder / "web" / "repo", folder / "keys"
        repository.init(self.repo, self.keys)
        generate_key(folder / "clinic.pem")

    def bundle(self, name: str, *, change: Callable[[dict[str, bytes]], None] = lambda _: None) -> tuple[Path, str]:
        shipped = read_bundle(DEFAULT_BUNDLE)
        fields = {**shipped.manifest.model_dump(mode="json", exclude={"parts"}), "name": name}
        parts = dict(shipped.parts)
        change(parts)
        data = pack_bundle(fields, parts)
        digest = read_bundle(data).digest
        path = self.folder / f"{name}.kinedge"
        write_bundle(
            path, sign_archive(data, load_signing_key(self.folder / "clinic.pem"), kind="bundle", digest=digest)
        )
        return path, digest

    def publish(self, name: str, **more: Any) -> str:
        path, digest = self.bundle(name, **more)
        repository.publish(self.repo, path, self.keys, name="wrists")
        return digest

    def config(self, **changes: Any) -> GatewayConfig:
        (self.folder / "root.json").write_bytes((self.repo / "metadata" / "1.root.json").read_bytes())
        models = {"url": f"{self.url}/repo", "root": self.folder / "root.json", "name": "wrists", "poll_s": 1}
        return GatewayConfig.model_validate(
            {
                "site": "clinic",
                "gateway": "gw-1",
                "store": self.folder / "edge.db",
                "people": [{"subject": "p-001"}],
                "trust": {"keys": [self.folder / "clinic.pem.pub"]},
                "max_delay_s": 1.5,
                **changes,
                "models": {**models, "folder": self.folder / "models", **changes.get("models", {})},
            }
        )

    def keeper(self, **changes: Any) -> tuple[ModelKeeper, list[tuple[str, str]]]:
        events: list[tuple[str, str]] = []
        keeper = ModelKeeper(self.config(**changes), on_event=lambda e, d: events.append((e, d["reason"])))
        return keeper, events


@contextmanager
def served(folder: Path) -> Iterator[Site]:
    """Serve a site's folder on a free port of this machine."""
    (folder / "web").mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            del format, args

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder / "web"))) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        serving.start()
        try:
            yield Site(folder, f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
            serving.join()


class Follower:
    """A service that plays, with what was said and by which model."""

    def __init__(self, config: GatewayConfig, *, speed: float) -> None:
        self.said: list[tuple[str, Verdict]] = []
        self.service = EdgeService(
            config,
            host_clock=HostClock(speed=speed),
            on_scored=lambda _, v: self.said.append((self.service.scorer.bundle.digest, v)),
        )

    async def until(
        self, condition: Callable[[], bool], serving: asyncio.Task[None], *, timeout_s: float = 120
    ) -> None:
        end = time.monotonic() + timeout_s
        while not condition():
            assert not serving.done(), serving.exception()
            assert time.monotonic() < end, list(self.service.notes)
            await asyncio.sleep(0.02)

    def models(self) -> list[str]:
        return list(dict.fromkeys(d for d, _ in self.said))
