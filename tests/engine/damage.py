"""The tables of docs/operations/damage.md, as the tests know them.

`python -m tests.engine.damage` writes them into the page.
"""

from __future__ import annotations

import re
from pathlib import Path

from engine.maintenance.verify.kinds import KINDS

PAGE = Path(__file__).parents[2] / "docs" / "operations" / "damage.md"


def kinds_table() -> str:
    lines = ["| kind | severity | what was found | what the next start does |", "|---|---|---|---|"]
    lines += [f"| `{kind.name}` | {kind.severity} | {kind.meaning} | {kind.next_start} |" for kind in KINDS.values()]
    return "\n".join(lines)


TABLES = {"kinds": kinds_table}


def with_tables(text: str) -> str:
    """Return the page's text with each marked table as it is now."""
    for name, table in TABLES.items():
        marks = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
        between = re.compile(re.escape(marks[0]) + ".*?" + re.escape(marks[1]), re.DOTALL)
        assert between.search(text), f"{PAGE} has no place for the table {name}"
        text = between.sub(lambda _, marks=marks, table=table: marks[0] + table() + marks[1], text)
    return text


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text()))
