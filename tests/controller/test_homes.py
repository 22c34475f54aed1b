"""A fleet's folder: made once, opened, healed."""

import asyncio
from pathlib import Path

import pytest

from controller import Fleet
from protos.errors import (
    AlreadyExists,
    InvalidRequest,
    NotFound,
)


def test_a_second_init_touches_nothing(tmp_path: Path) -> None:
    asyncio.run(Fleet.create(tmp_path / "home", name="lab").close())
    files = {path: path.read_bytes() for path in (tmp_path / "home").rglob("*.pem")}
    with pytest.raises(AlreadyExists, match="already"):
        Fleet.create(tmp_path / "home", name="other")
    assert {path: path.read_bytes() for path in (tmp_path / "home").rglob("*.pem")} == files
    assert len(files) == 4
    fleet = Fleet.open(tmp_path / "home")
    assert fleet.name == "lab"
    asyncio.run(fleet.close())


def test_opening_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFound, match="nanofleet init"):
        Fleet.open(tmp_path)
    monkeypatch.setenv("NANOFLEET_HOME", str(tmp_path / "elsewhere"))
    with pytest.raises(NotFound, match="elsewhere"):
        Fleet.open()


def test_what_a_crash_in_init_left_out_is_made_when_it_is_opened(tmp_path: Path) -> None:
    asyncio.run(Fleet.create(tmp_path / "home", name="lab").close())
    for path in [*(tmp_path / "home").glob("fleet.db*"), *(tmp_path / "home/identity").iterdir()]:
        path.unlink()
    fleet = Fleet.open(tmp_path / "home")
    assert fleet.name == "lab"
    asyncio.run(fleet.close())


def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidRequest, match="--home"):
        Fleet.create(tmp_path / "file" / "home")
    with pytest.raises(InvalidRequest):
        Fleet.create(tmp_path / "home", name="Not A Name")
    assert not (tmp_path / "home").exists()
