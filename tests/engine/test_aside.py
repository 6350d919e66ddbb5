"""Names of damaged files: none twice, and recognised again."""

from __future__ import annotations

from engine.disk.aside import is_aside, name_aside


def test_no_name_is_given_twice_and_each_is_recognised() -> None:
    names: list[str] = []
    for _ in range(4):
        names.append(name_aside("wal/7.wal", names.__contains__))
    assert names == [f"wal/7.wal.damaged{number}" for number in ("", ".2", ".3", ".4")]
    assert all(map(is_aside, names))


def test_other_names_are_not_taken_for_one() -> None:
    assert not any(map(is_aside, ("7.wal", "7.damaged.wal", "7.damaged.x", "7.damaged.", "7.damaged2", "damaged")))
