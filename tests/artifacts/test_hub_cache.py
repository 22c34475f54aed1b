"""Folders of the hub's cache have the name of their repository."""

from pathlib import Path

import pytest

from artifacts import hub_cache


@pytest.mark.parametrize(
    ("folder", "name", "root"),
    [
        ("/models/gemma", "gemma", "/models/gemma"),
        ("/hub/models--ada--persona/snapshots/3f2a", "persona", "/hub/models--ada--persona"),
        ("/hub/models--gpt2/snapshots/3f2a", "gpt2", "/hub/models--gpt2"),
        ("/snapshots", "snapshots", "/snapshots"),
    ],
)
def test_names_and_roots(folder: str, name: str, root: str) -> None:
    assert hub_cache.name_of(Path(folder)) == name
    assert hub_cache.root_of(Path(folder)) == Path(root)
