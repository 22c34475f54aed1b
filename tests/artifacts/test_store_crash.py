"""The store through kills, power cuts and full disks: real processes, real file systems."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from artifacts import digest as digests
from artifacts import headroom
from artifacts.digest import Digest
from artifacts.store import ArtifactStore
from protos.errors import DigestMismatch, DiskFull
from protos.nanofleet.v1 import artifact_pb2

BASE = artifact_pb2.ARTIFACT_KIND_BASE_MODEL
MIB = 1 << 20
ROOT = Path(__file__).parents[2]

# Puts DATA into STORE, pins it, and is killed at the N-th act that changes the disk: in place of it
# (a sync, a rename, a removal that never happened) the process dies.
KILLED = """
import os, signal, sys

left = int(sys.argv[3])

def deadly(act):
    def acting(*arguments, **named):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return act(*arguments, **named)
    return acting

for name in ("fsync", "fdatasync", "rename", "unlink", "mkdir", "utime", "chmod", "ftruncate"):
    setattr(os, name, deadly(getattr(os, name)))

from pathlib import Path
from artifacts.store import ArtifactStore
from artifacts import digest

store, data = ArtifactStore(Path(sys.argv[1]), reserve_bytes=0), Path(sys.argv[2]).read_bytes()
name = digest.of_bytes(data)
offset = store.committed_offset(name)
with store.begin(name, len(data), 1, offset) as upload:
    for at in range(offset, len(data), 1 << 20):
        upload.write(data[at : at + (1 << 20)])
    upload.commit()
store.pin(name, "job 1")
store.unpin(name, "job 1")
store.delete(name)
"""

# Sends bytes slowly enough to be killed from outside: one chunk for each line on stdin.
SLOW = """
import sys
from pathlib import Path
from artifacts.store import ArtifactStore
from artifacts import digest

store, data = ArtifactStore(Path(sys.argv[1]), reserve_bytes=0), Path(sys.argv[2]).read_bytes()
upload = store.begin(digest.of_bytes(data), len(data), 1, 0)
for at in range(0, len(data), 1 << 20):
    upload.write(data[at : at + (1 << 20)])
    print(upload.received_bytes, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "data"
    path.write_bytes(os.urandom(9 * MIB + 5))
    return path


def begun(root: Path, source: Path, received_bytes: int) -> tuple[ArtifactStore, Digest, bytes]:
    """A store with an upload that broke off."""
    data = source.read_bytes()
    store, digest = ArtifactStore(root, reserve_bytes=0), digests.of_file(source)
    with store.begin(digest, len(data), BASE, 0) as upload:
        for at in range(0, received_bytes, MIB):
            upload.write(data[at : min(at + MIB, received_bytes)])
    return store, digest, data


def finish(store: ArtifactStore, digest: Digest, data: bytes) -> None:
    offset = store.committed_offset(digest)
    with store.begin(digest, len(data), BASE, offset) as upload:
        upload.write(data[offset:])
        upload.commit()
    assert store.path(digest).read_bytes() == data


def incoming(root: Path, suffix: str = "") -> Path:
    (path,) = (path for path in (root / "incoming").iterdir() if path.suffix == suffix)
    return path


def test_a_killed_upload_resumes_at_the_journalled_offset(tmp_path: Path, source: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SLOW, tmp_path, source],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        for received in range(1, 8):
            assert int(child.stdout.readline()) == received * MIB
            if received < 7:
                child.stdin.write(b"\n")
                child.stdin.flush()
        store, digest = ArtifactStore(tmp_path, reserve_bytes=0), digests.of_file(source)
        assert store.stat(digest) is None
        child.kill()
    # Seven mebibytes are in the file; all but at most four are synced and journalled.
    assert incoming(tmp_path).stat().st_size == 7 * MIB
    assert 3 * MIB <= store.committed_offset(digest) <= 7 * MIB
    finish(store, digest, source.read_bytes())


def test_a_kill_at_every_act_on_the_disk(tmp_path: Path, source: Path) -> None:
    data, digest = source.read_bytes(), digests.of_file(source)
    for point in range(1, 100):
        root = tmp_path / str(point)
        ended = subprocess.run(
            [sys.executable, "-c", KILLED, root, source, str(point)], cwd=ROOT, check=False
        ).returncode
        store = ArtifactStore(root, reserve_bytes=0)
        if ended == 0:
            assert store.list() == []
            break
        assert ended == -signal.SIGKILL
        for path in (root / "incoming").iterdir():
            assert path.stat().st_mode & 0o600 == 0o600, "its user could not resume it"
        listed = store.list()
        if listed:
            assert store.path(digest).read_bytes() == data, point
            assert listed[0].pins in ((), ("job 1",))
        else:
            finish(store, digest, data)
        store.unpin(digest, "job 1")
        store.delete(digest)
        left = [path for path in root.rglob("*") if path.is_file() and path.name != "lock"]
        assert left == [], point
    assert 15 < point < 99


@pytest.mark.parametrize("size_bytes", [0, 3 * MIB, 8 * MIB - 1])
def test_bytes_that_a_power_cut_took_are_sent_again(
    tmp_path: Path, source: Path, size_bytes: int
) -> None:
    store, digest, data = begun(tmp_path, source, 8 * MIB)
    os.truncate(incoming(tmp_path), size_bytes)
    assert store.committed_offset(digest) == 0
    finish(store, digest, data)


def test_bytes_beyond_the_journal_are_not_believed(tmp_path: Path, source: Path) -> None:
    store, digest, data = begun(tmp_path, source, 5 * MIB)
    with incoming(tmp_path).open("ab") as file:
        file.write(bytes(3 * MIB))
    assert store.committed_offset(digest) == 5 * MIB
    finish(store, digest, data)


@pytest.mark.parametrize(
    "tail",
    [b"0000000000000838", b"\x00" * 21, b"99999999999999999999\n", b"-0000000000000000001\n"],
)
def test_a_torn_journal_line_does_not_count(tmp_path: Path, source: Path, tail: bytes) -> None:
    store, digest, data = begun(tmp_path, source, 5 * MIB)
    with incoming(tmp_path, ".journal").open("ab") as file:
        file.write(tail)
    assert store.committed_offset(digest) == 5 * MIB
    # Also once more was written behind it.
    with store.begin(digest, len(data), BASE, 5 * MIB) as upload:
        upload.write(data[5 * MIB : 6 * MIB])
    assert store.committed_offset(digest) == 6 * MIB
    finish(store, digest, data)


@pytest.mark.parametrize("content", [b"", b"{}\n", b"\x00" * 99, b'{"format_version": 1', b"[1]\n"])
def test_without_a_journal_it_starts_anew(tmp_path: Path, source: Path, content: bytes) -> None:
    store, digest, data = begun(tmp_path, source, 5 * MIB)
    incoming(tmp_path, ".journal").write_bytes(content)
    assert store.committed_offset(digest) == 0
    finish(store, digest, data)


def test_a_flipped_bit_in_the_prefix_is_found_at_the_end(tmp_path: Path, source: Path) -> None:
    store, digest, data = begun(tmp_path, source, 5 * MIB)
    with incoming(tmp_path).open("r+b") as file:
        file.seek(MIB)
        file.write(bytes([data[MIB] ^ 1]))
    with pytest.raises(DigestMismatch):
        finish(store, digest, data)
    finish(store, digest, data)


# --- a disk that is really full


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting is not permitted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_the_disk_fills_up_at_a_write(small_disk: Path, source: Path) -> None:
    data, digest = source.read_bytes(), digests.of_file(source)
    # The reported headroom is wrong, as it is when others write at the same time.
    store = ArtifactStore(small_disk, reserve_bytes=0, free_bytes=lambda _: 1 << 40)
    upload = store.begin(digest, len(data), BASE, 0)
    upload.write(data[: 7 * MIB])
    with pytest.raises(DiskFull, match="No space left on device"):
        upload.write(data[7 * MIB :])
    upload.close()
    assert store.committed_offset(digest) == 7 * MIB
    assert store.list() == []

    subprocess.run(["mount", "-o", "remount,size=16m", small_disk], check=True)
    finish(store, digest, data)


@pytest.mark.parametrize("size_bytes", [3 * MIB, 9 * MIB])
def test_nothing_is_left_of_a_copy_that_has_no_room(
    small_disk: Path, tmp_path: Path, size_bytes: int
) -> None:
    """It would keep the disk full; what is copied is still there."""
    small_disk.joinpath("filler").write_bytes(bytes(8 * MIB - 2 * size_bytes // 3))
    source = tmp_path / "source"
    source.write_bytes(bytes(size_bytes))
    store = ArtifactStore(small_disk / "store", reserve_bytes=0, free_bytes=lambda _: 1 << 40)
    before = headroom.free_bytes(small_disk)
    with pytest.raises(DiskFull, match="No space left on device"):
        store.add_file(source, BASE)
    assert list((small_disk / "store" / "incoming").iterdir()) == []
    assert headroom.free_bytes(small_disk) == before


def test_nothing_is_left_of_an_upload_that_could_not_be_resumed(small_disk: Path) -> None:
    data = bytes(3 * MIB)
    small_disk.joinpath("filler").write_bytes(bytes(6 * MIB))
    store = ArtifactStore(small_disk / "store", reserve_bytes=0, free_bytes=lambda _: 1 << 40)
    upload = store.begin(digests.of_bytes(data), len(data), BASE, 0)
    with pytest.raises(DiskFull):
        upload.write(data)
    upload.close()
    assert list((small_disk / "store" / "incoming").iterdir()) == []


def test_real_headroom_is_asked_for(small_disk: Path, source: Path) -> None:
    store = ArtifactStore(small_disk, reserve_bytes=2 * MIB)
    with pytest.raises(DiskFull, match=r"6\.0 MiB are needed\. 8\.0 MiB are free, of which 2\.0"):
        store.begin(digests.of_bytes(b"a"), 6 * MIB + 1, BASE, 0)
    small = small_disk.parent / "small"
    small.write_bytes(bytes(5 * MIB))
    digest = store.add_file(small, BASE).digest
    with pytest.raises(DiskFull):
        store.add_file(source, BASE)
    store.delete(digest)


def test_pins_survive_a_full_disk(small_disk: Path) -> None:
    store = ArtifactStore(small_disk, reserve_bytes=0)
    digest = store.add_file(Path(__file__), BASE).digest
    store.pin(digest, "job 1")
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space"):
        filler.write_bytes(bytes(16 * MIB))
    with pytest.raises(DiskFull):
        store.pin(digest, "job 2")
    assert store.stat(digest).pins == ("job 1",)
    filler.unlink()
    store.pin(digest, "job 2")
