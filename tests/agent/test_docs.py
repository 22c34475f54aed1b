"""docs/agent.md is true: its settings load, and are the defaults, every one of them."""

import re
from dataclasses import fields
from pathlib import Path

from agent import config

PAGE = (Path(__file__).parents[2] / "docs/agent.md").read_text()


def test_the_settings_are_the_defaults(tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / config.FILE).write_text(text)
    loaded = config.load(tmp_path)
    assert loaded == config.Config()
    known = {key.name for table in fields(loaded) for key in fields(getattr(loaded, table.name))}
    assert set(re.findall(r"^(\w+) = ", text, re.MULTILINE)) == known
