"""What the dashboard refuses, with a code and the status that goes with it."""

from __future__ import annotations

from typing import Final

from kinedge.errors import KinedgeError

__all__ = ["STATUS", "Refused"]

STATUS: Final = {
    "bad_request": 400,
    "unauthorised": 401,
    "forbidden": 403,
    "not_found": 404,
    "method": 405,
    "conflict": 409,
    "media_type": 415,
    "slow_down": 429,
    "busy": 503,
}


class Refused(KinedgeError):
    """A request that is not answered with what was asked.

    Parameters
    ----------
    code
        One of ``STATUS``.
    message
        For a person.
    retry_after_s
        When asking again makes sense; 0: unknown.
    """

    def __init__(self, code: str, message: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.code = code
        self.status = STATUS[code]
        self.retry_after_s = retry_after_s
