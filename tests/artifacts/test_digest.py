"""Digests: one spelling, and nothing that could become another file's name."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifacts import digest
from protos.errors import InvalidRequest


def test_bytes_and_files_have_the_same_digest(tmp_path: Path) -> None:
    data = bytes(range(256)) * 9_000
    path = tmp_path / "data"
    path.write_bytes(data)
    expected = f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert digest.of_bytes(data) == digest.of_file(path) == expected
    assert digest.parse(expected) == expected
    assert digest.hex_of(digest.parse(expected)) == expected[7:]
    assert digest.short(digest.parse(expected)) == expected[7:19]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256:",
        "a" * 64,
        "sha256:" + "A" * 64,
        "sha256:" + "a" * 63,
        "SHA256:" + "a" * 64,
        "sha256:" + "a" * 64 + "\n",
        "md5:" + "a" * 64,
        "sha256:../" + "a" * 61,
    ],
)
def test_another_spelling_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="is not a digest") as caught:
        digest.parse(text, "base")
    assert caught.value.field == "base"


@given(st.text())
def test_what_is_accepted_is_hexadecimal(text: str) -> None:
    try:
        digits = digest.hex_of(digest.parse(text))
    except InvalidRequest:
        return
    assert set(digits) <= set("0123456789abcdef")
