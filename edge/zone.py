"""Local time of seconds: what hours and days of a person are counted by."""

from __future__ import annotations

import time
from datetime import datetime
from zoneinfo import ZoneInfo

__all__ = ["Zone"]


class Zone:
    """A place's clock; asked of the system once for a quarter of an hour.

    Parameters
    ----------
    name
        Such as ``Europe/Paris``; empty: this machine's.
    """

    def __init__(self, name: str) -> None:
        self._zone = ZoneInfo(name) if name else None
        self._quarter, self._offset_s = -1, 0

    def offset_s(self, utc_s: int) -> int:
        """Return how far local time is ahead of UTC."""
        if utc_s // 900 != self._quarter:
            self._quarter = utc_s // 900
            if self._zone is None:
                self._offset_s = time.localtime(utc_s).tm_gmtoff
            else:
                ahead = datetime.fromtimestamp(utc_s, self._zone).utcoffset()
                self._offset_s = 0 if ahead is None else round(ahead.total_seconds())
        return self._offset_s
