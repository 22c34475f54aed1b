import mmap
from pathlib import Path

from agent.workers import residency


def test_anonymous_and_file_backed_memory_are_told_apart(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nRssAnon:\t     100 kB\nRssFile:\t      20 kB\nThreads:\t1\n")
    assert residency.measure(status) == residency.Residency(102_400, 20_480, 0)


def test_a_mapped_file_counts_as_file_backed(tmp_path: Path) -> None:
    size = 8 << 20
    path = tmp_path / "weights"
    path.write_bytes(b"\1" * size)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        before = residency.measure()
        assert sum(mapped[:: mmap.PAGESIZE]) == size // mmap.PAGESIZE
        after = residency.measure()
    assert after.file_bytes - before.file_bytes > size // 2
