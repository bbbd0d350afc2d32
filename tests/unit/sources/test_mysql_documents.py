"""Binary JSON as MySQL 9.7 wrote it, and the text that the same server made of it."""

from __future__ import annotations

import struct

import pytest

from headgate.sources.mysql.documents import text_of


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (
            "0207002f000501000719000a1d000b25000c2d0004010004000090eefeffffffffffffffffff000000000000f83f0161",
            '[1, -70000, 18446744073709551615, 1.5, "a", true, null]',
        ),
        (
            "0004004700200001002100010022000100230001000f24000f28000f33000f3d00626474750f0200fff6090e047ef204c72dff82"
            "0b08e05ef8febff9ffff0c08000000053144a519",
            '{"b": "base64:type15:AP8=", "d": -1234567890.0125, "t": "-100:00:01.500000",'
            ' "u": "2020-01-02 03:04:05.000000"}',
        ),
    ],
)
def test_a_document_is_the_text_that_the_server_makes_of_it(written: str, text: str) -> None:
    assert text_of(bytes.fromhex(written)) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.0, "0.0"), (-0.0, "-0.0"), (100.0, "100.0"), (1e14, "100000000000000.0"), (1e15, "1e15"), (1e20, "1e20"),
        (1234567890123456.8, "1234567890123456.8"), (1.2345678901234568e16, "1.2345678901234568e16"),
        (0.1, "0.1"), (1e-7, "0.0000001"), (1.234e-10, "0.0000000001234"), (-1.5e300, "-1.5e300"), (5e-324, "5e-324"),
    ],
)  # fmt: skip
def test_a_double_has_the_digits_and_the_exponent_of_the_server(number: float, text: str) -> None:
    assert text_of(b"\x0b" + struct.pack("<d", number)) == text


@pytest.mark.parametrize("written", [b"\x0d\x00", b"\x04\x07"])
def test_what_is_no_document_is_an_error(written: bytes) -> None:
    with pytest.raises((ValueError, LookupError)):
        text_of(written)
