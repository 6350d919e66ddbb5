"""native.rawkeys: the fingerprint against published vectors and its slow twin, and series known by it alone.

Every test of the decoders runs with fingerprints too (tests/oracles/lineprotocol.py and the tests of Prometheus).
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from native.catalogue import Catalogue
from native.lineprotocol import LineDecoder
from native.rawkeys import fingerprint_of
from tests.oracles import siphash
from tests.oracles.lineprotocol import rows_of

SECRET = bytes(range(16))
TIMES = {"precision_ns": 1, "default_time_ns": 0, "min_time_ns": 0, "max_time_ns": 10}


# The first two of the reference implementation's vectors for 128 bits.
@pytest.mark.parametrize(
    ("data", "wanted"), [(b"", "a3817f04ba25a8e66df67214c7550293"), (b"\0", "da87c1d86b99af44347659119b22fc45")]
)
def test_published_vectors(data: bytes, wanted: str) -> None:
    assert fingerprint_of(data, SECRET).hex() == siphash.fingerprint_of(data, SECRET).hex() == wanted


@given(st.binary(max_size=300), st.binary(min_size=16, max_size=16))
def test_agrees_with_its_twin(data: bytes, secret: bytes) -> None:
    assert fingerprint_of(data, secret) == siphash.fingerprint_of(data, secret)


def test_a_secret_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="15 bytes, want 16"):
        fingerprint_of(b"", SECRET[:15])


def test_beyond_the_limit_of_text_keys_are_found_by_fingerprint_and_take_less() -> None:
    limits = {"max_tagsets": 10**6, "max_tables": 10, "max_fields": 10, "max_refusals": 10}
    lines = [b"t,host=%06d,padding=%s v=%d 1\n" % (number, b"x" * 200, number) for number in range(20_000)]
    texts = LineDecoder(Catalogue(), **limits, max_key_text=1 << 30)
    mixed = LineDecoder(Catalogue(), **limits, max_key_text=1 << 20)
    for body in (b"".join(lines), b"".join(lines), b"".join(reversed(lines)), b"".join(lines[::7])):
        assert rows_of(mixed.decode(body, **TIMES)) == rows_of(texts.decode(body, **TIMES))
    saved = 20_000 * (len(lines[0]) - 8 - 16) - (1 << 20)
    assert texts.key_bytes - mixed.key_bytes > saved * 0.9


def test_a_negative_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="max_key_text -1"):
        LineDecoder(Catalogue(), max_tagsets=1, max_tables=1, max_fields=1, max_refusals=1, max_key_text=-1)
