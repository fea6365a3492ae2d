"""A server that plays the board's interface from web/fixtures: for work on the page, and its tests in a browser.

``python tests/board_replay.py --port 8799 --people 20``, then ``npm run dev:board`` in web/.
It answers what docs/board-api.md says, moves the fixtures' times to now, and can be told what to do next (``Replay``).
The page is served as strictly as it could be: ``default-src 'self'`` and nothing else.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import queue
import random
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = ROOT / "web/fixtures"
STATIC = ROOT / "edge/dashboard/static"
TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
POLICY = "default-src 'self'"


def fixture(name: str) -> Any:
    return json.loads((FIXTURES / name).read_text())


def moved(value: Any, by_ns: int) -> Any:
    """Return ``value`` with every time in it moved."""
    if isinstance(value, dict):
        return {
            key: (by_ns + v if isinstance(v, int) else [t + by_ns for t in v] if isinstance(v, list) else v)
            if key.endswith("utc_ns") and v is not None
            else moved(v, by_ns)
            for key, v in value.items()
        }
    return [moved(one, by_ns) for one in value] if isinstance(value, list) else value


class Replay:
    """What the board would know, and who listens."""

    def __init__(self, *, people: int = 20, token: str | None = None) -> None:
        raw = fixture("state-2.json" if people <= 2 else "state-20.json")
        self.state: dict[str, Any] = moved(raw, time.time_ns() - raw["utc_ns"])
        self.state["people"] = self.state["people"][:people]
        self.token = token
        self.down = threading.Event()  # set: nothing is answered, as when the board is gone
        self.asked: list[tuple[str, Any]] = []
        self.listeners: dict[queue.Queue[tuple[str, Any]], str | None] = {}
        self.lock = threading.Lock()
        self.random = random.Random(8)
        self.history = {p["subject"]: self._history(p) for p in self.state["people"]}

    def person(self, subject: str) -> dict[str, Any]:
        return next(p for p in self.state["people"] if p["subject"] == subject)

    def _history(self, person: dict[str, Any]) -> list[tuple[int, float]]:
        """Return 15 minutes that end where the person is now."""
        now, end = self.state["utc_ns"], person["score"] or 0.0
        level, rows = 0.0, []
        for i in range(880):
            level += 0.08 * -level + self.random.gauss(0, 0.12)
            nearness = max(0.0, 1 - (880 - i) / 25)
            rows.append((now - (880 - i) * 10**9, level * (1 - nearness) + end * nearness + self.random.gauss(0, 0.06)))
        return rows

    def send(self, event: str, data: dict[str, Any], *, to: str | None = None) -> None:
        """Send an event to everybody, or to those who look at one person."""
        message = (event, {**data, "at_utc_ns": time.time_ns()})
        with self.lock:
            for listener, subject in self.listeners.items():
                if to is None or subject == to:
                    listener.put(message)

    def change(self, subject: str, **what: Any) -> None:
        """Change a person and tell it."""
        person = self.person(subject)
        person.update(what, utc_ns=time.time_ns())
        self.send("state", {"people": [copy.deepcopy(person)]})

    def tick(self, second: int) -> None:
        """Let a second pass: everybody has a new answer."""
        for person in self.state["people"]:
            if person["utc_ns"] is None:
                continue
            person["utc_ns"] = time.time_ns()
            score = max(-0.4, person["score"] + self.random.gauss(0, 0.1))
            self.history[person["subject"]].append((person["utc_ns"], score))
            self.send("state", {"people": [{**copy.deepcopy(person), "score": score}]})
        self.state["utc_ns"] = time.time_ns()

    def signals(self, n: int = 5) -> None:
        """Send a tenth of a second of every sensor to who looks at somebody."""
        now = time.time_ns()
        for subject in set(self.listeners.values()) - {None}:
            for k, sensor in enumerate(self.state["model"]["sensors"]):
                worn = [s for s in self.person(str(subject))["sensors"] if s["name"] == sensor["name"]]
                if not worn or worn[0]["state"] != "streaming":
                    continue
                times = [now - (n - 1 - i) * 20_000_000 for i in range(n)]
                values = [[_wave(t / 1e9, k, c) for t in times] for c in range(len(sensor["channels"]))]
                names = [c["name"] for c in sensor["channels"]]
                self.send(
                    "signals",
                    {
                        "subject": subject,
                        "sensor": sensor["name"],
                        "channels": names,
                        "rate_hz": 50.0,
                        "t_utc_ns": times,
                        "values": values,
                    },
                    to=subject,
                )

    def play(self, stop: threading.Event) -> None:
        """Go on until told to stop."""
        i = 0
        while not stop.wait(0.1):
            self.signals()
            i += 1
            if i % 10 == 0:
                self.tick(i // 10)


def _wave(t: float, sensor: int, channel: int) -> float:
    swing = math.sin(2 * math.pi * (0.9 + 0.13 * sensor) * t + channel) * math.exp(0.8 * math.sin(0.7 * t + sensor))
    base = (2.8, -8.4, 3.4, 0.0, 0.0, 0.0)[channel % 6]
    return round(base + (1.4 if channel < 3 else 0.5) * swing + 0.05 * math.sin(61.7 * t * (channel + 1)), 3)


class Handler(BaseHTTPRequestHandler):
    replay: Replay
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Stay quiet."""

    def _answer(self, status: int, body: Any, *, kind: str = "application/json", cookie: str = "") -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        if cookie:
            self.send_header("Set-Cookie", cookie)
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)
        self.close_connection = True

    def _authorised(self) -> bool:
        token = self.replay.token
        return token is None or f"kinedge={token}" in self.headers.get("Cookie", "")

    def do_GET(self) -> None:
        replay, url = self.replay, urlsplit(self.path)
        if replay.down.is_set():
            self.close_connection = True
            return
        path = url.path
        if path == "/" or path.startswith("/assets/"):
            file = STATIC / ("index.html" if path == "/" else path[1:])
            if file.is_file():
                return self._answer(200, file.read_bytes(), kind=TYPES.get(file.suffix, "font/woff2"))
        if path == "/api/session":
            ok = self._authorised()
            gateway = replay.state["gateway"] if ok else None
            return self._answer(
                200, {"needs_token": replay.token is not None, "authorised": ok, "gateway": gateway, "version": "0.1.0"}
            )
        if not self._authorised():
            return self._answer(401, {"error": {"code": "unauthorised", "message": "a token is needed"}})
        if path == "/api/state":
            return self._answer(200, replay.state)
        if path == "/api/stream":
            return self._stream(parse_qs(url.query).get("subject", [None])[0])
        if path.startswith("/api/people/") and path.endswith("/history"):
            subject = unquote(path.split("/")[3])
            rows = replay.history[subject]
            return self._answer(
                200,
                {
                    "subject": subject,
                    "utc_ns": [t for t, _ in rows],
                    "score": [s for _, s in rows],
                    "decision": ["normal" for _ in rows],
                },
            )
        if path == "/api/episodes":
            found = fixture("episodes.json")
            return self._answer(200, moved(found, replay.state["utc_ns"] - fixture("state-2.json")["utc_ns"]))
        return self._answer(404, {"error": {"code": "not_found", "message": f"no such path: {path}"}})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        if self.headers.get("X-Kinedge") != "1" or self.headers.get("Content-Type") != "application/json":
            return self._answer(403, {"error": {"code": "forbidden", "message": "headers are missing"}})
        self.replay.asked.append((self.path, body))
        if self.path == "/api/login":
            if body.get("token") != self.replay.token:
                return self._answer(401, {"error": {"code": "unauthorised", "message": "wrong token"}})
            return self._answer(
                200, {"ok": True}, cookie=f"kinedge={self.replay.token}; HttpOnly; SameSite=Strict; Path=/"
            )
        return self._answer(200, {"ok": True, "text": {"en": "done", "fr": "fait"}})

    def _stream(self, subject: str | None) -> None:
        mine: queue.Queue[tuple[str, Any]] = queue.Queue(1000)
        mine.put(("state", {**copy.deepcopy(self.replay.state), "at_utc_ns": time.time_ns()}))
        with self.replay.lock:
            self.replay.listeners[mine] = subject
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        try:
            while not self.replay.down.is_set():
                try:
                    event, data = mine.get(timeout=0.2)
                except queue.Empty:
                    self.wfile.write(b": \n\n")
                    continue
                self.wfile.write(f"event: {event}\ndata: {json.dumps(data)}\n\n".encode())
        except OSError:
            pass  # the browser left
        finally:
            self.close_connection = True
            with self.replay.lock:
                self.replay.listeners.pop(mine, None)


class Server(ThreadingHTTPServer):
    """Serves a replay in threads of its own; ``port`` 0 takes a free one."""

    daemon_threads = True

    def __init__(self, replay: Replay, *, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), type("Bound", (Handler,), {"replay": replay}))
        self.replay = replay
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"
        self._stop = threading.Event()

    def __enter__(self) -> Server:
        for work in (self.serve_forever, lambda: self.replay.play(self._stop)):
            threading.Thread(target=work, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.replay.down.set()
        self.shutdown()
        self.server_close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8799)
    parser.add_argument("--people", type=int, default=20)
    parser.add_argument("--token")
    asked = parser.parse_args()
    with Server(Replay(people=asked.people, token=asked.token), port=asked.port) as server:
        print(server.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
