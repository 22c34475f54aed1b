"""Pieces: shared between versions, and what an upload that turns out wrong goes on with."""

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifacts import digest as digests
from artifacts import pieces
from artifacts.digest import Digest
from artifacts.pieces import PIECE_BYTES, Range
from artifacts.store import ArtifactStore
from protos.errors import Busy, DigestMismatch, InvalidRequest
from protos.nanofleet.v1 import artifact_pb2

BASE = artifact_pb2.ARTIFACT_KIND_BASE_MODEL
# Seventeen pieces, the last one short.
SIZE_BYTES = 16 * PIECE_BYTES + 999


class Version:
    """An artifact that is large enough to have pieces."""

    def __init__(self, path: Path, data: bytes) -> None:
        self.data = data
        path.write_bytes(data)
        self.path = path
        self.digest, self.pieces = pieces.measured(path)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Version:
    return Version(tmp_path_factory.mktemp("v") / "1", random.Random(1).randbytes(SIZE_BYTES))


@pytest.fixture(scope="module")
def second(first: Version) -> Version:
    """Other bytes in the third piece and in the last one."""
    data = bytearray(first.data)
    data[2 * PIECE_BYTES + 7] ^= 1
    data[-1] ^= 1
    return Version(first.path.with_name("2"), bytes(data))


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store", reserve_bytes=0)


def slices(data: bytes) -> Iterator[bytes]:
    for at in range(0, len(data), 1 << 20):
        yield data[at : at + (1 << 20)]


def send(store: ArtifactStore, version: Version, data: bytes, offset: int = 0) -> None:
    size_bytes = len(version.data)
    with store.begin(version.digest, size_bytes, BASE, offset, version.pieces) as upload:
        for chunk in slices(data[offset:]):
            upload.write(chunk)
        upload.commit()


def test_a_file_is_measured_in_one_pass(first: Version, tmp_path: Path) -> None:
    assert first.digest == digests.of_bytes(first.data)
    assert (
        pieces.each(first.pieces)[1]
        == hashlib.sha256(first.data[PIECE_BYTES : 2 * PIECE_BYTES]).digest()
    )
    assert len(pieces.each(first.pieces)) == 17
    small = tmp_path / "small"
    small.write_bytes(b"x" * 100)
    assert pieces.measured(small) == (digests.of_bytes(b"x" * 100), b"")


def test_what_another_version_has_is_not_sent(
    store: ArtifactStore, first: Version, second: Version
) -> None:
    store.add_file(first.path, BASE)
    held = store.held(second.digest, SIZE_BYTES, second.pieces)
    assert held == [Range(0, 2 * PIECE_BYTES), Range(3 * PIECE_BYTES, 16 * PIECE_BYTES)]
    with store.begin(second.digest, SIZE_BYTES, BASE, 0, second.pieces) as upload:
        upload.fill(held[0].end)
        assert upload.received_bytes == 2 * PIECE_BYTES
        upload.write(second.data[2 * PIECE_BYTES : 3 * PIECE_BYTES])
        upload.fill(held[1].end)
        upload.write(second.data[16 * PIECE_BYTES :])
        upload.commit()
    assert store.path(second.digest).read_bytes() == second.data
    assert store.pieces_of(second.digest) == second.pieces


def test_pieces_that_are_gone_are_asked_for_again(
    store: ArtifactStore, first: Version, second: Version
) -> None:
    store.add_file(first.path, BASE)
    with store.begin(second.digest, SIZE_BYTES, BASE, 0, second.pieces) as upload:
        upload.fill(PIECE_BYTES)
        store.delete(first.digest)
        with pytest.raises(Busy, match=r"Piece 1 .* is here no more"):
            upload.fill(2 * PIECE_BYTES)
    assert store.held(second.digest, SIZE_BYTES, second.pieces) == []
    send(store, second, second.data, store.committed_offset(second.digest))
    assert store.path(second.digest).read_bytes() == second.data


def test_a_damaged_piece_of_another_artifact_is_not_copied(
    store: ArtifactStore, first: Version, second: Version
) -> None:
    store.add_file(first.path, BASE)
    path = store.path(first.digest)
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.write(b"\0\0\0\0")
    with (
        store.begin(second.digest, SIZE_BYTES, BASE, 0, second.pieces) as upload,
        pytest.raises(Busy),
    ):
        upload.fill(PIECE_BYTES)


def test_an_upload_goes_on_at_its_first_wrong_piece(store: ArtifactStore, first: Version) -> None:
    damaged = bytearray(first.data)
    damaged[9 * PIECE_BYTES + 5] ^= 1
    with pytest.raises(Busy, match="are damaged") as caught:
        send(store, first, bytes(damaged))
    assert caught.value.retryable
    assert store.committed_offset(first.digest) == 9 * PIECE_BYTES
    send(store, first, first.data, 9 * PIECE_BYTES)
    assert store.path(first.digest).read_bytes() == first.data


def test_bytes_that_are_right_piece_by_piece_under_a_wrong_name_are_dropped(
    store: ArtifactStore, first: Version
) -> None:
    wrong = Digest(digests.of_bytes(b"another"))
    with store.begin(wrong, SIZE_BYTES, BASE, 0, first.pieces) as upload:
        for chunk in slices(first.data):
            upload.write(chunk)
        with pytest.raises(DigestMismatch):
            upload.commit()
    assert store.committed_offset(wrong) == 0


@pytest.mark.parametrize("size_bytes", [SIZE_BYTES + PIECE_BYTES, 100])
def test_pieces_of_another_size_are_refused(
    store: ArtifactStore, first: Version, size_bytes: int
) -> None:
    with pytest.raises(InvalidRequest, match="are not the pieces"):
        store.begin(first.digest, size_bytes, BASE, 0, first.pieces)
    with pytest.raises(InvalidRequest, match="are not the pieces"):
        store.held(first.digest, size_bytes, first.pieces)


@pytest.mark.parametrize("end", [0, 5, PIECE_BYTES * 99])
def test_what_is_no_range_of_pieces_is_refused(
    store: ArtifactStore, first: Version, end: int
) -> None:
    with (
        store.begin(first.digest, SIZE_BYTES, BASE, 0, first.pieces) as upload,
        pytest.raises(InvalidRequest, match="are no pieces"),
    ):
        upload.fill(end)


def test_damaged_pieces_on_the_disk_count_as_none(store: ArtifactStore, first: Version) -> None:
    store.add_file(first.path, BASE)
    (path,) = (store.path(first.digest).parent).glob("*.pieces")
    path.write_bytes(b"\0" * 31)
    assert store.pieces_of(first.digest) == b""
    store.delete(first.digest)
    assert not path.exists()
