"""One table from engine errors to HTTP, and the one error body: ``{"error", "message", "details"}``."""

from __future__ import annotations

from typing import Any

import msgspec

from engine import errors

#: The first class that an error is an instance of decides.
STATUS_BY_CLASS: tuple[tuple[type[errors.TidegaugeError], int], ...] = (
    (errors.NotFound, 404),
    (errors.Forbidden, 403),
    (errors.BadInput, 400),
    (errors.QueryLimit, 422),
    (errors.QueueFull, 429),
    (errors.Overload, 503),
    (errors.Unavailable, 503),
    # nginx's "client closed request": nobody is there to read it.
    (errors.Cancelled, 499),
    (errors.Damage, 500),
    (errors.Bug, 500),
)
INTERNAL_MESSAGE = "cannot answer: an internal error occurred; the server's log has the details"


class TooLarge(errors.BadInput):
    """A body beyond the limit; answered with 413."""

    code = "too_large"


class Unauthorized(errors.BadInput):
    """No token, or an unknown one; answered with 401."""

    code = "unauthorized"


class UnsupportedMedia(errors.BadInput):
    """A body of a kind that the path does not take; answered with 415."""

    code = "unsupported_media_type"


_OWN_STATUS = {TooLarge: 413, Unauthorized: 401, UnsupportedMedia: 415}


def status_of(error: BaseException) -> int:
    """Return the HTTP status of an error; 500 for whatever the engine did not raise on purpose."""
    own = _OWN_STATUS.get(type(error))  # type: ignore[arg-type]
    if own is not None:
        return own
    for kind, status in STATUS_BY_CLASS:
        if isinstance(error, kind):
            return status
    return 500


def body_of(error: BaseException) -> dict[str, Any]:
    """Return the error body; what the engine did not raise on purpose is not told to the client."""
    if isinstance(error, errors.TidegaugeError):
        return {"error": error.code, "message": error.message, "details": error.details}
    return {"error": "internal", "message": INTERNAL_MESSAGE, "details": None}


def headers_of(error: BaseException) -> dict[str, str]:
    """Return the headers an error needs: ``Retry-After`` for 429 and 503, the scheme for 401."""
    if isinstance(error, Unauthorized):
        return {"WWW-Authenticate": "Bearer"}
    if status_of(error) in (429, 503):
        return {"Retry-After": str(getattr(error, "retry_after_seconds", 1))}
    return {}


def encode_error(error: BaseException) -> bytes:
    return msgspec.json.encode(body_of(error))
