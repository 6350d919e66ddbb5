"""Flight SQL's messages: what a client asks, and what is answered beside rows.

Source: FlightSql.proto, https://github.com/apache/arrow/blob/main/format/FlightSql.proto, described at
https://arrow.apache.org/docs/format/FlightSql.html.  Each message travels in a ``google.protobuf.Any``: field 1 is the
type's URL, field 2 the message.
"""

from __future__ import annotations

from dataclasses import dataclass

from api.flight.protobuf import bytes_field, number_field, records
from engine.errors import BadRequest

TYPE_PREFIX = "type.googleapis.com/arrow.flight.protocol.sql."


@dataclass(frozen=True, slots=True)
class Message:
    """One message: the name of its type, and the values of each field in the order in which they came."""

    kind: str
    fields: dict[int, list[int | bytes]]

    def text(self, number: int) -> str | None:
        """Return a text, None where the message has none; raises BadRequest for what is no text."""
        value = self.data(number)
        try:
            return None if value is None else value.decode()
        except UnicodeDecodeError:
            raise BadRequest(f"cannot read {self.kind}: field {number} is not UTF-8") from None

    def data(self, number: int) -> bytes | None:
        """Return bytes, None where the message has none."""
        values = self.fields.get(number)
        if not values:
            return None
        value = values[-1]
        if not isinstance(value, bytes):
            raise BadRequest(f"cannot read {self.kind}: field {number} is a number, want bytes")
        return value

    def texts(self, number: int) -> list[str]:
        """Return every text of a repeated field."""
        return [value.decode("utf-8", "replace") for value in self.fields.get(number, []) if isinstance(value, bytes)]

    def numbers(self, number: int) -> list[int]:
        """Return the numbers of a repeated field, packed or not."""
        found: list[int] = []
        for value in self.fields.get(number, []):
            if isinstance(value, int):
                found.append(value)
            else:
                # A packed field is the numbers one behind the other; a tag before each makes records of them.
                found += _unpacked(value)
        return found

    def flag(self, number: int) -> bool:
        return bool(self.fields.get(number, [0])[-1])


def _unpacked(data: bytes) -> list[int]:
    found, value, shift = [], 0, 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            found.append(value)
            value = shift = 0
    return found


def read(data: bytes) -> Message:
    """Return the message in an Any; raises BadRequest for what is none of Flight SQL's."""
    found: dict[int, int | bytes] = dict(records(data))
    url, value = found.get(1, b""), found.get(2, b"")
    if not isinstance(url, bytes) or not isinstance(value, bytes):
        raise BadRequest("cannot read command: want a google.protobuf.Any")
    name = url.decode("utf-8", "replace")
    if not name.startswith(TYPE_PREFIX):
        raise BadRequest(f"cannot read command: got a message of type {name!r}, want one of {TYPE_PREFIX}")
    fields: dict[int, list[int | bytes]] = {}
    for number, each in records(value):
        fields.setdefault(number, []).append(each)
    return Message(name.removeprefix(TYPE_PREFIX), fields)


def written(kind: str, value: bytes) -> bytes:
    """Return a message of Flight SQL in an Any."""
    return bytes_field(1, TYPE_PREFIX + kind) + bytes_field(2, value)


def statement_ticket(handle: bytes) -> bytes:
    return written("TicketStatementQuery", bytes_field(1, handle))


def prepared_result(handle: bytes, dataset_schema: bytes, parameter_schema: bytes) -> bytes:
    """Return ActionCreatePreparedStatementResult; a schema that is not known is empty."""
    value = bytes_field(1, handle)
    if dataset_schema:
        value += bytes_field(2, dataset_schema)
    if parameter_schema:
        value += bytes_field(3, parameter_schema)
    return written("ActionCreatePreparedStatementResult", value)


def bound_result(handle: bytes) -> bytes:
    """Return DoPutPreparedStatementResult, which travels without an Any."""
    return bytes_field(1, handle)


def command(kind: str, *fields: tuple[int, int | str | bytes]) -> bytes:
    """Return a command as a client sends it."""
    parts = (number_field(n, v) if isinstance(v, int) else bytes_field(n, v) for n, v in fields)
    return written(kind, b"".join(parts))
