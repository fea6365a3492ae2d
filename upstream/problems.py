"""Answers other than 2xx in one form, ``{"error": {"code", "message"}}``: a word for programs, a sentence for us."""

from __future__ import annotations

from typing import Final

from fastapi import HTTPException
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException as StarletteHTTPException

__all__ = ["Problem", "Refusal", "code_of", "problems"]

_CODES: Final = {401: "unauthorized", 403: "forbidden", 404: "not_found", 405: "method_not_allowed"}


class _Error(BaseModel):
    code: str = Field(description="for programs")
    message: str = Field(description="for people: what is wrong, where, what to do")


class Problem(BaseModel):
    """An answer that is no success."""

    error: _Error


class Refusal(HTTPException):
    """An answer other than 2xx, with a code that a program understands."""

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(status, detail=message, headers=headers)
        self.code = code


_MEANINGS: Final = {
    400: "damaged or cut off on its way; send it again",
    401: "nobody that is known here",
    403: "known, and not allowed",
    404: "not here",
    405: "no such method here",
    408: "it came too slowly",
    409: "contradicts what is here; nothing was changed",
    413: "too large",
    415: "another media type is needed",
    421: "not for this machine",
    422: "not understood; sending it again is of no use",
    429: "too many; see Retry-After",
    503: "not now; see Retry-After",
}


def problems(*statuses: int) -> dict[int | str, dict[str, object]]:
    """Describe for OpenAPI which refusals an operation has, besides those that any may have."""
    every = (401, 403, 421, 422, 429, 503)
    return {s: {"model": Problem, "description": _MEANINGS[s]} for s in sorted({*every, *statuses})}


def code_of(error: StarletteHTTPException) -> str:
    """Return the code of a refusal; those of the framework get one by status."""
    return error.code if isinstance(error, Refusal) else _CODES.get(error.status_code, "refused")
