"""The store as its callers see it: what is there, what stays, what comes in, what goes."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from artifacts import digest as digests
from artifacts.digest import Digest
from artifacts.store import FRESH_S, ArtifactStore, StoredArtifact
from protos.errors import (
    Busy,
    DigestMismatch,
    DiskFull,
    InUse,
    InvalidRequest,
    NotFound,
    OffsetMismatch,
)
from protos.nanofleet.v1 import artifact_pb2

BASE = artifact_pb2.ARTIFACT_KIND_BASE_MODEL
ADAPTER = artifact_pb2.ARTIFACT_KIND_ADAPTER
MIB = 1 << 20


class Disk:
    """A disk whose free space a test sets."""

    def __init__(self) -> None:
        self.free = 1 << 40

    def free_bytes(self, folder: Path) -> int:
        assert folder.is_dir()
        return self.free


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


def put(store: ArtifactStore, data: bytes, kind=BASE) -> Digest:
    digest = digests.of_bytes(data)
    with store.begin(digest, len(data), kind, 0) as upload:
        upload.write(data)
        upload.commit()
    return digest


def everything_in(root: Path) -> list[str]:
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


def test_what_was_put_is_there_and_nothing_else(store: ArtifactStore, tmp_path: Path) -> None:
    digest = put(store, b"weights")
    digits = digests.hex_of(digest)
    assert store.stat(digest) == StoredArtifact(digest, 7, BASE, ())
    assert store.path(digest).read_bytes() == b"weights"
    assert store.path(digest).stat().st_mode & 0o777 == 0o400
    assert store.used_bytes() == 7
    assert everything_in(tmp_path / "store") == [
        "lock",
        f"objects/{digits[:2]}/{digits[2:]}",
        f"objects/{digits[:2]}/{digits[2:]}.json",
    ]


def test_a_store_that_is_opened_again_knows_the_same(store: ArtifactStore, tmp_path: Path) -> None:
    digest = put(store, b"weights")
    store.pin(digest, "job 1")
    again = ArtifactStore(tmp_path / "store")
    assert again.list() == [StoredArtifact(digest, 7, BASE, ("job 1",))]


def test_an_empty_artifact_is_one_too(store: ArtifactStore) -> None:
    digest = digests.of_bytes(b"")
    with store.begin(digest, 0, BASE, 0) as upload:
        assert upload.commit().size_bytes == 0
    assert store.path(digest).read_bytes() == b""


def test_listing_is_sorted_and_by_kind(store: ArtifactStore) -> None:
    base, adapter = put(store, b"base"), put(store, b"adapter", ADAPTER)
    assert [item.digest for item in store.list()] == sorted([base, adapter])
    assert [item.digest for item in store.list(ADAPTER)] == [adapter]
    assert len(store.list(artifact_pb2.ARTIFACT_KIND_UNSPECIFIED)) == 2


@pytest.mark.parametrize("name", ["", "sha256:", "sha256:../../etc/passwd", "sha256:" + "G" * 64])
def test_no_name_but_a_digest_reaches_the_disk(store: ArtifactStore, name: str) -> None:
    wrong = Digest(name)
    for call in (store.stat, store.path, store.delete, store.touch, store.committed_offset):
        with pytest.raises(InvalidRequest, match="is not a digest"):
            call(wrong)
    with pytest.raises(InvalidRequest, match="is not a digest"):
        store.begin(wrong, 1, BASE, 0)


def test_what_is_not_there_is_not_found(store: ArtifactStore) -> None:
    missing = digests.of_bytes(b"missing")
    assert store.stat(missing) is None
    assert store.committed_offset(missing) == 0
    for call in (store.path, store.delete, store.touch):
        with pytest.raises(NotFound, match=r"is not here\. Push it"):
            call(missing)
    with pytest.raises(NotFound):
        store.pin(missing, "job 1")
    store.unpin(missing, "job 1")


def test_bytes_that_shrank_are_absent_and_an_upload_mends_them(store: ArtifactStore) -> None:
    digest = put(store, b"weights")
    store.pin(digest, "job 1")
    path = store.path(digest)
    path.chmod(0o600)
    path.write_bytes(b"weig")
    assert store.stat(digest) is None
    assert store.list() == []
    put(store, b"weights")
    assert store.stat(digest) == StoredArtifact(digest, 7, BASE, ("job 1",))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format_version": 99}', b"\x00" * 80])
def test_a_damaged_record_is_mended_by_an_upload(
    store: ArtifactStore, tmp_path: Path, content: bytes
) -> None:
    digest = put(store, b"weights")
    next((tmp_path / "store" / "objects").rglob("*.json")).write_bytes(content)
    again = ArtifactStore(tmp_path / "store")
    assert again.stat(digest) is None
    put(again, b"weights")
    assert again.stat(digest) is not None


# --- uploads


def test_an_upload_resumes_where_it_ended(store: ArtifactStore) -> None:
    data = os.urandom(9 * MIB)
    digest = digests.of_bytes(data)
    with store.begin(digest, len(data), BASE, 0) as upload:
        upload.write(data[: 5 * MIB])
    assert store.stat(digest) is None
    assert store.committed_offset(digest) == 5 * MIB
    assert store.used_bytes() == 5 * MIB
    with store.begin(digest, len(data), BASE, 5 * MIB) as upload:
        assert upload.received_bytes == 5 * MIB
        upload.write(data[5 * MIB :])
        upload.commit()
    assert store.path(digest).read_bytes() == data
    assert store.committed_offset(digest) == 0


@pytest.mark.parametrize("offset", [0, 1, 2 * MIB])
def test_another_offset_is_refused_and_costs_nothing(store: ArtifactStore, offset: int) -> None:
    data = bytes(3 * MIB)
    digest = digests.of_bytes(data)
    with store.begin(digest, len(data), BASE, 0) as upload:
        upload.write(data[:MIB])
    with pytest.raises(OffsetMismatch, match=f"starts at {offset}, but {MIB} bytes are here"):
        store.begin(digest, len(data), BASE, offset)
    assert store.committed_offset(digest) == MIB


def test_another_announcement_starts_anew(store: ArtifactStore) -> None:
    digest = digests.of_bytes(b"weights")
    with store.begin(digest, 7_000, BASE, 0) as upload:
        upload.write(b"wei")
    with pytest.raises(OffsetMismatch):
        store.begin(digest, 7, BASE, 3)
    assert store.committed_offset(digest) == 0
    put(store, b"weights")


def test_wrong_bytes_are_dropped(store: ArtifactStore, tmp_path: Path) -> None:
    digest = digests.of_bytes(b"weights")
    upload = store.begin(digest, 7, BASE, 0)
    upload.write(b"WEIGHTS")
    with pytest.raises(DigestMismatch, match="They were dropped: send the file again"):
        upload.commit()
    assert store.committed_offset(digest) == 0
    assert everything_in(tmp_path / "store") == ["lock"]
    put(store, b"weights")


def test_more_bytes_than_announced_are_refused(store: ArtifactStore) -> None:
    with store.begin(digests.of_bytes(b"weights"), 7, BASE, 0) as upload:
        upload.write(b"weight")
        with pytest.raises(InvalidRequest, match="More bytes came than the 7"):
            upload.write(b"s and more")


def test_fewer_bytes_than_announced_are_kept(store: ArtifactStore) -> None:
    digest = digests.of_bytes(b"weights")
    with store.begin(digest, 7, BASE, 0) as upload:
        upload.write(b"wei")
        with pytest.raises(InvalidRequest, match=r"after 3 of 7 bytes\. Resume it at offset 3"):
            upload.commit()
    assert store.committed_offset(digest) == 3


def test_an_ended_upload_says_so(store: ArtifactStore) -> None:
    upload = store.begin(digests.of_bytes(b"weights"), 7, BASE, 0)
    upload.close()
    upload.close()
    for call in (lambda: upload.write(b"w"), upload.commit):
        with pytest.raises(InvalidRequest, match="This upload has ended"):
            call()


def test_an_upload_without_a_byte_leaves_nothing(store: ArtifactStore, tmp_path: Path) -> None:
    store.begin(digests.of_bytes(b"weights"), 7, BASE, 0).close()
    assert everything_in(tmp_path / "store") == ["lock"]


def test_the_second_upload_of_the_same_is_busy(store: ArtifactStore, tmp_path: Path) -> None:
    digest = digests.of_bytes(b"weights")
    other_process = ArtifactStore(tmp_path / "store")
    with store.begin(digest, 7, BASE, 0) as upload:
        for place in (store, other_process):
            with pytest.raises(Busy, match=r"Another transfer of \w{12} is running") as caught:
                place.begin(digest, 7, BASE, 0)
            assert caught.value.retry_after_s == 1.0
        with pytest.raises(InUse, match="It is being uploaded"):
            store.delete(digest)
        upload.write(b"weights")
        upload.commit()
    assert other_process.stat(digest) is not None


def test_threads_that_upload_the_same_get_it_once_or_busy(store: ArtifactStore) -> None:
    data = os.urandom(MIB)
    digest = digests.of_bytes(data)
    start = threading.Barrier(8)

    def upload_it() -> str:
        start.wait()
        try:
            put(store, data)
        except Busy:
            return "busy"
        return "done"

    with ThreadPoolExecutor(8) as threads:
        outcomes = [future.result() for future in [threads.submit(upload_it) for _ in range(8)]]
    assert "done" in outcomes
    assert store.path(digest).read_bytes() == data


def test_a_file_is_added_once_and_finishes_an_upload(store: ArtifactStore, tmp_path: Path) -> None:
    source = tmp_path / "model.gguf"
    source.write_bytes(os.urandom(3 * MIB))
    digest = digests.of_file(source)
    with store.begin(digest, 3 * MIB, BASE, 0) as upload:
        upload.write(source.read_bytes()[:MIB])
    added = store.add_file(source, BASE)
    assert added == store.add_file(source, BASE) == StoredArtifact(digest, 3 * MIB, BASE)
    assert store.path(digest).read_bytes() == source.read_bytes()
    with pytest.raises(NotFound):
        store.add_file(tmp_path / "nowhere", BASE)
    with pytest.raises(InvalidRequest, match="no regular file"):
        store.add_file(tmp_path, BASE)


# --- pins and deletion


def test_a_pinned_artifact_stays(store: ArtifactStore) -> None:
    digest = put(store, b"weights")
    for owner in ("loaded", "job 1", "job 1"):
        store.pin(digest, owner)
    assert store.stat(digest).pins == ("job 1", "loaded")
    with pytest.raises(InUse, match=r"It is needed by: job 1, loaded\."):
        store.delete(digest)
    store.unpin(digest, "job 1")
    store.unpin(digest, "nobody")
    with pytest.raises(InUse):
        store.delete(digest)
    store.unpin(digest, "loaded")
    store.delete(digest)
    assert store.list() == []


def test_deleting_drops_an_unfinished_upload(store: ArtifactStore, tmp_path: Path) -> None:
    digest = digests.of_bytes(b"weights")
    with store.begin(digest, 7, BASE, 0) as upload:
        upload.write(b"wei")
    store.delete(digest)
    assert store.committed_offset(digest) == 0
    assert everything_in(tmp_path / "store") == ["lock"]


def test_pins_of_many_threads_are_all_kept(store: ArtifactStore, tmp_path: Path) -> None:
    digest = put(store, b"weights")
    places = (store, ArtifactStore(tmp_path / "store"))
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: places[n % 2].pin(digest, f"job {n:02}"), range(40)))
        list(threads.map(lambda n: places[n % 2].unpin(digest, f"job {n:02}"), range(0, 40, 2)))
    assert store.stat(digest).pins == tuple(f"job {n:02}" for n in range(1, 40, 2))


# --- room on the disk


def test_a_full_disk_is_refused_before_the_first_byte(tmp_path: Path) -> None:
    disk = Disk()
    store = ArtifactStore(tmp_path, reserve_bytes=256 * MIB, free_bytes=disk.free_bytes)
    disk.free = 990 * MIB
    digest = digests.of_bytes(b"a model")
    with pytest.raises(DiskFull) as caught:
        store.begin(digest, 800 * MIB, BASE, 0)
    numbers = "800 MiB are needed. 990 MiB are free, of which 256 MiB stay reserved."
    assert numbers in str(caught.value)
    assert everything_in(tmp_path) == ["lock"]
    store.begin(digest, 734 * MIB, BASE, 0).close()


def test_only_the_rest_of_an_upload_needs_room(tmp_path: Path) -> None:
    disk = Disk()
    store = ArtifactStore(tmp_path, reserve_bytes=0, free_bytes=disk.free_bytes)
    data = bytes(3 * MIB)
    digest = digests.of_bytes(data)
    with store.begin(digest, len(data), BASE, 0) as upload:
        upload.write(data[: 2 * MIB])
    disk.free = 1 * MIB
    store.begin(digest, len(data), BASE, 2 * MIB).close()
    disk.free = 1 * MIB - 1
    with pytest.raises(DiskFull):
        store.begin(digest, len(data), BASE, 2 * MIB)
    assert store.committed_offset(digest) == 2 * MIB


def test_an_upload_yields_when_others_fill_the_disk(tmp_path: Path) -> None:
    disk = Disk()
    store = ArtifactStore(tmp_path, free_bytes=disk.free_bytes)
    digest = digests.of_bytes(b"a model")
    upload = store.begin(digest, 40 * MIB, BASE, 0)
    upload.write(bytes(4 * MIB))
    disk.free = 256 * MIB
    with pytest.raises(DiskFull):
        upload.write(bytes(4 * MIB))
    assert store.committed_offset(digest) == 8 * MIB


def test_room_is_made_from_the_longest_unused(tmp_path: Path) -> None:
    disk = Disk()
    clock = iter([50, 40, 30, 20, 10, 60])  # a clock that runs backwards must not change the order
    store = ArtifactStore(
        tmp_path, reserve_bytes=0, free_bytes=disk.free_bytes, clock_ns=lambda: next(clock, 0)
    )
    first, second, third = (put(store, bytes([n]) * 100) for n in range(3))
    pinned = put(store, b"pinned")
    store.pin(pinned, "job 1")
    store.touch(first)
    again = ArtifactStore(
        tmp_path, reserve_bytes=0, free_bytes=lambda _: free(), evicted=frozenset({BASE})
    )

    def free() -> int:
        return 1_000 - sum(item.size_bytes for item in again.list())

    assert again.make_room(694) == []
    assert again.make_room(700) == [second]
    assert again.make_room(850) == [third]
    assert again.make_room(900) == [first]
    with pytest.raises(DiskFull):
        again.make_room(1_000)
    assert [item.digest for item in again.list()] == [pinned]


def test_room_is_made_from_abandoned_uploads_but_not_running_ones(tmp_path: Path) -> None:
    disk = Disk()
    store = ArtifactStore(tmp_path, reserve_bytes=0, free_bytes=disk.free_bytes)
    abandoned, running = digests.of_bytes(b"a"), digests.of_bytes(b"r")
    with store.begin(abandoned, 100, BASE, 0) as upload:
        upload.write(bytes(50))
    with store.begin(running, 100, BASE, 0) as upload:
        upload.write(bytes(50))
        disk.free = 0
        with pytest.raises(DiskFull):
            store.make_room(80)
        assert store.committed_offset(abandoned) == 50, "in vain, nothing is deleted"
        assert store.make_room(50) == [abandoned]
        assert store.committed_offset(abandoned) == 0
        disk.free = 1 << 40
        upload.write(bytes(10))
    assert store.committed_offset(running) == 60


def test_a_pinned_artifact_survives_making_room_while_it_is_sent_again(tmp_path: Path) -> None:
    disk = Disk()
    store = ArtifactStore(tmp_path, reserve_bytes=0, free_bytes=disk.free_bytes)
    digest = put(store, b"weights")
    store.pin(digest, "job 1")
    with store.begin(digest, 7, BASE, 0) as upload:
        upload.write(b"wei")
    disk.free = 0
    assert store.make_room(2) == [digest]  # the unfinished second copy
    assert store.path(digest).read_bytes() == b"weights"


def test_an_upload_pushes_out_what_was_unused_longest_and_no_result(tmp_path: Path) -> None:
    now_s = 0.0
    store = ArtifactStore(
        tmp_path,
        reserve_bytes=0,
        free_bytes=lambda _: 1_000 - store.used_bytes(),
        monotonic_s=lambda: now_s,
        evicted=frozenset({BASE}),
    )
    adapter = put(store, b"adapter" * 20, artifact_pb2.ARTIFACT_KIND_ADAPTER)
    old, pinned, recent = (put(store, bytes([n]) * 200) for n in range(3))
    store.pin(pinned, "job 1")
    now_s = FRESH_S
    store.touch(recent)
    new = put(store, b"n" * 400)
    assert {item.digest for item in store.list()} == {adapter, pinned, recent, new}
    # What was used a moment ago belongs to the same job, maybe: a full disk is said to be full.
    with pytest.raises(DiskFull):
        put(store, b"x" * 300)
    assert {item.digest for item in store.list()} == {adapter, pinned, recent, new}
    assert old not in {item.digest for item in store.list()}
