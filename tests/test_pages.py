"""The files that the pages name are there."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))

LINK = re.compile(r"\]\((?!https?:)([^)#]+)")
# `agent/jobs/states.py`, `docs/examples/`: below one of our folders, without a placeholder.
PATH = re.compile(r"`((?:agent|artifacts|controller|docs|jetson|protos|tests)/[\w./-]*)`")


def named(page: Path) -> Iterator[Path]:
    text = page.read_text()
    yield from (page.parent / link for link in LINK.findall(text))
    yield from (ROOT / path for path in PATH.findall(text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_is_there(page: Path) -> None:
    missing = [str(path) for path in named(page) if not path.exists()]
    assert not missing
