"""For those who look after a gateway: metrics and health over HTTP, signs of life to systemd."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from kinedge.edge.config import HttpConfig
from kinedge.edge.health import health_of, read_gateway, status_line
from kinedge.edge.http_server import Answer, HttpServer, json_answer
from kinedge.edge.systemd import Notifier

if TYPE_CHECKING:
    from kinedge.edge.dashboard.board import Board
    from kinedge.edge.service import EdgeService

__all__ = ["feed_watchdog", "gateway_server"]

_STATUS_EVERY_S: Final = 10.0


def gateway_server(service: EdgeService, http: HttpConfig, board: Board | None = None) -> HttpServer:
    """Return the server of a gateway, with its dashboard if it has one; answers are as of the moment of asking."""

    async def health() -> Answer:
        content = health_of(service, await asyncio.to_thread(read_gateway, service))
        return json_answer(content, status=200 if content["ok"] else 503)

    async def metrics() -> Answer:
        from kinedge.edge.metrics import CONTENT_TYPE_LATEST, render_metrics  # nobody pays for it who does not ask

        readings = await asyncio.to_thread(read_gateway, service)
        return Answer(render_metrics(service, readings), CONTENT_TYPE_LATEST)

    dispatch = None
    if board is not None:
        dispatch = board.answer
    return HttpServer(
        http.host,
        http.port,
        {"/health": health, "/metrics": metrics},
        dispatch=dispatch,
        or_any_port="port" not in http.model_fields_set,
    )


async def feed_watchdog(service: EdgeService, notifier: Notifier) -> None:
    """Tell systemd that scoring goes on. While it stands still nothing is told, and systemd begins the process anew."""
    while True:
        alive = [] if service.progress.stuck() else ["WATCHDOG=1"]
        notifier.tell(*alive, status=status_line(service))
        await asyncio.sleep(_STATUS_EVERY_S if notifier.watchdog_s is None else notifier.watchdog_s / 3)
