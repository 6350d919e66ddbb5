"""Pages that show statements and requests: what they show is run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import tidegauge

DOCS = Path(__file__).resolve().parents[2] / "docs"


def statements(page: str) -> list[str]:
    blocks = re.findall(r"```sql\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    # A statement ends with a semicolon at the end of a line; one inside a comment ends nothing.
    return [text.strip() for block in blocks for text in re.split(r";[ ]*\n", block) if text.strip(" ;\n")]


@pytest.mark.parametrize("page", ["sql.md"])
def test_every_statement_of_the_page_runs(page: str, tmp_path: Path) -> None:
    found = statements(page)
    assert found
    with tidegauge.open(str(tmp_path / "data")) as db:
        db.write("cpu,host=a,region=eu usage_user=5,usage_system=1\ncpu,host=b,region=us usage_user=7,usage_system=2")
        db.write("mem,host=a used=5\napp,host=a requests_total=10,response_time_ms=3")
        for statement in found:
            db.sql(statement)
