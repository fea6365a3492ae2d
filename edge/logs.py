"""The log of a service: for people, or one JSON object a line for machines."""

from __future__ import annotations

import json
import logging
import time
from typing import Final, Literal

__all__ = ["JsonFormatter", "LogFormat", "set_up_logging"]

LogFormat = Literal["text", "json"]

_MAX_TRACE_CHARS: Final = 8000
_PLAIN: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One object a line: ``time`` (UTC), ``level``, ``logger``, ``message``, what was given as ``extra``, ``trace``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        content: dict[str, object] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        content |= {k: v for k, v in record.__dict__.items() if k not in _PLAIN}
        if record.exc_info:
            content["trace"] = self.formatException(record.exc_info)[-_MAX_TRACE_CHARS:]
        return json.dumps(content, default=str)


def set_up_logging(form: LogFormat, *, level: int = logging.WARNING) -> None:
    """Send the log of this process to the error output."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        JsonFormatter() if form == "json" else logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
