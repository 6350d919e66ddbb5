"""Damage of every kind to every file: what verify says, what a start does, and that the page says the same."""

from __future__ import annotations

from tests.engine.damage import PAGE, with_tables


def test_the_page_has_the_tables_of_the_tests() -> None:
    text = PAGE.read_text()
    assert text == with_tables(text), "run `python -m tests.engine.damage`"
