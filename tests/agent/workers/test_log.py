from pathlib import Path

from agent.workers.log import TAIL_BYTES, BoundedLog


def test_it_stays_within_its_bound_and_keeps_the_end(tmp_path: Path) -> None:
    log = BoundedLog(tmp_path / "worker.log", limit_bytes=2000)
    for number in range(1000):
        log.write(b"line %4d\n" % number)
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2000
    log.close()
    assert (tmp_path / "worker.log").read_text().endswith("line  999\n")
    assert (tmp_path / "worker.log.1").stat().st_size > 900


def test_the_tail_begins_with_a_whole_line(tmp_path: Path) -> None:
    log = BoundedLog(tmp_path / "worker.log")
    log.write(b"short\n")
    assert log.tail() == "short\n"
    for number in range(1000):
        log.write(b"line %4d\n" % number)
    assert log.tail().startswith("line ")
    assert len(log.tail()) <= TAIL_BYTES
    log.close()


def test_a_later_attempt_goes_on_in_the_same_file_but_tells_only_its_own(tmp_path: Path) -> None:
    for text in (b"first\n", b"second\n"):
        log = BoundedLog(tmp_path / "worker.log")
        log.write(text)
        assert log.tail() == text.decode()
        log.close()
    assert (tmp_path / "worker.log").read_text() == "first\nsecond\n"


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    log = BoundedLog(tmp_path / "worker.log")
    log.write(b"\xff\xfe\n")
    assert log.tail() == "��\n"
    log.close()
