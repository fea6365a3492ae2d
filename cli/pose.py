"""``kinedge pose``: sensors were put on again; a running gateway is told, and leads through the guided poses."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Annotated, Any, Final

import httpx
import typer
from rich.console import Console
from rich.table import Table

from kinedge.cli.app import app
from kinedge.errors import KinedgeError, LinkError

__all__ = ["pose"]

_TIMEOUT_S: Final = 10.0
_ASK_S: Final = 0.5
_SILENT_S: Final = 120.0  # without a step further; a gateway waits for ever where no sample comes


@app.command()
def pose(
    url: Annotated[str, typer.Argument(help="The address of the gateway's page.")],
    subject: Annotated[str, typer.Option(help="Whose sensors were put on again.")],
    token_file: Annotated[Path | None, typer.Option(help="The token of the page, where it asks for one.")] = None,
    tries: Annotated[int, typer.Option(min=1, max=20, help="How often a pose is repeated that was not held.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Lead a person through two still poses, so that a running gateway knows how their sensors sit today.

    For people who do not walk: their enrolment needs the same poses (kinedge enrol --guided-poses, --pose, or the
    page). While the page learns an enrolment, this records its poses. The exit status is 1 where no sensor could be
    aligned.

    Example: kinedge pose http://127.0.0.1:8080 --subject p-001
    """
    console = Console(stderr=True)
    with _Gateway(url, subject, token_file) as gateway:
        gateway.ask("start")
        try:
            found = _lead(gateway, console, tries=tries)
        finally:
            gateway.leave_off()
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        table = Table(title=f"{subject}: {found['text']['en']}")
        for column in ("sensor", "found"):
            table.add_column(column)
        for sensor in found["sensors"]:
            table.add_row(sensor["place"]["en"], sensor["text"]["en"])
        Console().print(table)
    if found["state"] != "done":
        raise typer.Exit(1)


class _Gateway:
    """A running gateway, asked about one person."""

    def __init__(self, url: str, subject: str, token_file: Path | None) -> None:
        headers = {"X-Kinedge": "1"}
        self._url, self._subject = url, subject
        try:
            if token_file is not None:
                headers["Authorization"] = f"Bearer {token_file.read_text(encoding='utf-8').strip()}"
            self._client = httpx.Client(base_url=url, headers=headers, timeout=_TIMEOUT_S, trust_env=False)
        except (OSError, ValueError, httpx.InvalidURL) as e:
            raise LinkError(f"{url}: {e}") from e

    def __enter__(self) -> _Gateway:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def ask(self, action: str) -> dict[str, Any]:
        """Do something; returns how the poses stand then."""
        found: dict[str, Any] = self._answer("POST", f"/api/people/{self._subject}/pose", {"action": action})
        return found

    def stand(self) -> dict[str, Any] | None:
        """Return how the poses stand; None where somebody else has left off."""
        people = self._answer("GET", "/api/state", None)["people"]
        stand: dict[str, Any] | None = next((p["pose"] for p in people if p["subject"] == self._subject), None)
        return stand

    def leave_off(self) -> None:
        """End what is going on, or put its result away."""
        with contextlib.suppress(KinedgeError):  # it may have ended
            self.ask("cancel")

    def _answer(self, method: str, path: str, body: dict[str, str] | None) -> Any:
        try:
            answer = self._client.request(method, path, json=body)
            content = answer.json()
        except (httpx.HTTPError, ValueError) as e:
            raise LinkError(f"{self._url}: no gateway's page answers there ({e}); is [http] in its file?") from e
        if answer.status_code != 200:
            message = content.get("error", {}).get("message") if isinstance(content, dict) else None
            raise LinkError(f"{self._url}: {message or f'status {answer.status_code}: not a gateway'}")
        return content


def _lead(gateway: _Gateway, console: Console, *, tries: int) -> dict[str, Any]:
    said: tuple[str, int] = ("", 0)
    n_tries, moved_s = 0, time.monotonic()
    while True:
        step = gateway.stand()
        if step is None:
            raise LinkError("somebody else left off the poses")
        now = (str(step["state"]), int(step["number"]))
        if now != said:
            n_tries = n_tries if now[1] == said[1] else 0
            said, moved_s = now, time.monotonic()
            if now[0] == "ready":
                left_s = f"{step['seconds_left']:.0f} s"
                console.print(f"Pose {now[1]} of {step['of']}, in {left_s}: {step['instruction']['en']}")
            elif now[0] == "hold":
                console.print("Hold still …")
            elif now[0] in ("done", "failed"):
                return step
        elif time.monotonic() - moved_s > _SILENT_S:
            raise LinkError(f"nothing has happened for {_SILENT_S:.0f} s; are the sensors on?")
        if now[0] == "stuck":
            n_tries += 1
            moving = "; ".join(f"{s['place']['en']}: {s['text']['en']}" for s in step["sensors"] if s["why"])
            console.print(f"[yellow]Not everything was still ({moving or 'not for long enough'}).[/yellow]")
            gateway.ask("repeat" if n_tries < tries else "go_on")
            said = ("", now[1])
        time.sleep(_ASK_S)
