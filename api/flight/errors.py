"""Errors of the engine as Flight has them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from pyarrow import flight

from api.errors import Unauthorized
from engine.errors import BadInput, Cancelled, Forbidden, Overload, QueryLimit, TidegaugeError, Unavailable

LOG = logging.getLogger("tidegauge.flight")


@contextmanager
def as_flight_errors() -> Iterator[None]:
    """Turn errors of the engine into those that gRPC has a status for."""
    try:
        yield
    except Unauthorized as error:
        raise flight.FlightUnauthenticatedError(error.message) from None
    except Forbidden as error:
        raise flight.FlightUnauthorizedError(error.message) from None
    except Cancelled as error:
        raise flight.FlightCancelledError(error.message) from None
    except QueryLimit as error:
        raise flight.FlightTimedOutError(error.message) from None
    except BadInput as error:
        # With INVALID_ARGUMENT pyarrow sends a traceback along.
        raise flight.FlightServerError(error.message) from None
    except (Overload, Unavailable) as error:
        raise flight.FlightUnavailableError(error.message) from None
    except TidegaugeError as error:
        LOG.error("a statement failed: %s", error.message)
        raise flight.FlightInternalError(error.message) from None
