"""What the line decoder says about what it refuses: a cause to count by, and a sentence to act on."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

#: How much of a refused line is handed back with its refusal.
LINE_BYTES = 200
#: How much of what was found a sentence repeats.
FOUND_CHARACTERS = 60

#: Cause and the wanted thing, by the numbers of ``Problem`` in linegrammar.pxd (the first is "fine").
PROBLEMS: tuple[tuple[str, str], ...] = (
    ("", ""),
    ("malformed", "a measurement before the first comma or space"),
    ("malformed", "a space and at least one field=value after measurement and tags"),
    ("malformed", "a name of at most 65535 bytes"),
    ("malformed", "measurement and tags of at most 1048576 bytes together"),
    ("malformed", "a tag key before '='"),
    ("malformed", "key=value with a value that is not empty; a space or comma inside it needs a backslash"),
    ("malformed", "a tag value without '=' (write \\= for one)"),
    ("malformed", "a field key before '='"),
    ("malformed", "key=value with a value; a space or comma inside a field key needs a backslash"),
    ("malformed", "a number, 1i, 1u, a boolean, or a string in double quotes"),
    ("malformed", "a double quote that closes the string on the same line"),
    ("malformed", "an integer timestamp and nothing after it"),
    ("not_utf8", "UTF-8"),
    ("duplicate_tag", "each tag key once"),
    ("too_old", "a time from {min_time} on, in the precision of the request"),
    ("too_far_in_future", "a time up to {max_time}, in the precision of the request"),
    ("table_limit", "one of the {max_tables} measurements that exist, which is the limit"),
    ("tag_set_limit", "one of the tag sets that are known, as {max_tagsets} are in use, which is the limit"),
    (
        "table_tag_set_limit",
        "one of the measurement's tag sets that are known, as {max_table_tagsets} are in use, which is the limit",
    ),
    (
        "tag_set_rate_limit",
        "one of the tag sets that are known, as {max_hourly_tagsets} are new within an hour, which is the limit",
    ),
    ("field_limit", "one of the {max_fields} fields that the measurement has, which is the limit"),
    ("string_field", "a number or a boolean; text belongs in a tag"),
    ("not_finite", "a finite number"),
    ("out_of_range", "an integer within 64 bits"),
)

#: Every cause that ``refused_by_cause`` may hold.
CAUSES: tuple[str, ...] = tuple(dict.fromkeys(cause for cause, _ in PROBLEMS[1:]))

#: Causes that concern one field of a line; the others concern the whole line.
FIELD_CAUSES = frozenset({"field_limit", "string_field", "not_finite", "out_of_range"})


def time_text(time_ns: int) -> str:
    """Return the time as people write it, or the bare number where calendars end."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    try:
        text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return f"{time_ns} ns"
    return f"{text}.{rest:09d}Z" if rest else f"{text}Z"


def sentence(problem: int, line: bytes, start: int, end: int, limits: Mapping[str, object]) -> str:
    """Return the sentence for ``line[start:end]``, which is what ``problem`` was found at.

    ``limits`` holds min_time, max_time and each max_... that a sentence names, ready to be printed.
    """
    cause, wanted = PROBLEMS[problem]
    found = line[start:end].decode("utf-8", "backslashreplace")
    if len(found) > FOUND_CHARACTERS:
        found = found[:FOUND_CHARACTERS] + "..."
    if found:
        found = f"'{found}'"
    elif start >= len(line):
        found = "the end of the line"
    else:
        found = "nothing"
    kept = "field" if cause in FIELD_CAUSES else "line"
    where = f"byte {start + 1}"
    if len(line) > LINE_BYTES:
        where += f"; the line of {len(line)} bytes is cut to {LINE_BYTES}"
    return f"cannot keep the {kept}: got {found}, want {wanted.format_map(limits)} ({where})"
