"""native.labels against a dictionary, and what it refuses."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from native.labels import LabelTable
from tests.oracles import labels as oracle

KEYS = st.binary(max_size=40) | st.sampled_from([b"", b"a", b"ab", b"a" * 16, b"a" * 17, b"a" * 33, b"a" * 5000])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.booleans(), KEYS), max_size=60))
def test_numbers_keys_as_a_dictionary_does(steps: list[tuple[bool, bytes]]) -> None:
    table, expected = LabelTable(), oracle.LabelTable()
    for intern, key in steps:
        if intern:
            assert table.intern(key) == expected.intern(key)
        assert table.find(key) == expected.find(key)
        assert len(table) == len(expected)
    assert [table.key(number) for number in range(len(table))] == expected.keys


def test_identifiers_and_keys_survive_growth() -> None:
    table = LabelTable()
    keys = [b"host-%d" % number + b"x" * (number % 70) for number in range(20_000)]
    assert [table.intern(key) for key in keys] == list(range(len(keys)))
    assert [table.intern(key) for key in keys] == list(range(len(keys)))
    assert [table.key(number) for number in range(len(keys))] == keys
    assert table.find(b"host-20000") == -1


@pytest.mark.parametrize("length", [*range(40), 63, 64, 65, 95, 96, 97, 128, 250])
def test_every_byte_of_a_key_tells_it_from_others(length: int) -> None:
    table = LabelTable()
    key = bytes(length)
    others = [key[:at] + b"\x01" + key[at + 1 :] for at in range(length)] + [key + b"\x00"]
    assert table.intern(key) == 0
    assert [table.find(other) for other in others] == [-1] * len(others)
    assert [table.intern(other) for other in others] == list(range(1, len(others) + 1))


def test_memory_bytes_counts_keys_and_look_up_tables() -> None:
    table = LabelTable()
    assert table.memory_bytes == 0
    table.intern(b"a" * 100_000)
    assert 100_000 <= table.memory_bytes < 102_000
    small = table.memory_bytes
    for number in range(1000):
        table.intern(b"%d" % number)
    assert table.memory_bytes > small + 1000 * (3 + 8 + 16)


def test_refuses_identifiers_that_do_not_exist() -> None:
    table = LabelTable()
    table.intern(b"only")
    for identifier in (-1, 1, 2**40):
        with pytest.raises(ValueError, match="cannot read key"):
            table.key(identifier)


@pytest.mark.parametrize("key", ["text", None, 7, bytearray(b"a")])
def test_refuses_keys_that_are_not_bytes(key: object) -> None:
    table = LabelTable()
    with pytest.raises(TypeError):
        table.intern(key)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        table.find(key)  # type: ignore[arg-type]
    assert len(table) == 0
