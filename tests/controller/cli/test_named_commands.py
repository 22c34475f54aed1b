"""What messages and pages tell people to type exists: a remedy that is a usage error is none."""

import re
from collections.abc import Iterator

import pytest
import typer.main
from click import Command, Context

from agent.cli import main as agent
from controller.cli.main import app
from tests.controller.cli.conftest import ROOT

FOLDERS = ("agent", "artifacts", "controller", "docs", "jetson", "protos")
# In backticks within a sentence, or a line of a shell example with or without its prompt.
NAMED = re.compile(r"(?:`|^\$ |^)nanofleet(-agent)? ([a-z-][^`\n]+)", re.MULTILINE)
OPTION = re.compile(r"--[a-z][a-z-]*")


def places() -> Iterator[tuple[str, str]]:
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.*")]
    for path in (*paths, *ROOT.glob("*.md")):
        if path.suffix in {".py", ".md", ".proto", ".yaml"} and "_pb2" not in path.name:
            for match in NAMED.finditer(path.read_text()):
                program = "agent" if match[1] else "controller"
                yield program, re.split(r" #| \| | && ", match[2])[0].strip()


def options_of(words: list[str]) -> set[str]:
    """The options of the command that the words begin with; fails when there is none."""
    command: Command = typer.main.get_command(app)
    path = iter(words)
    while isinstance(children := getattr(command, "commands", None), dict):
        word = next(path, "")
        if not re.fullmatch("[a-z]+", word):
            return {"--help"}
        assert word in children, f"`nanofleet {' '.join(words)}`: there is no {word}"
        command = children[word]
    context = Context(command, max_content_width=200)
    return {option for item in command.get_params(context) for option in item.opts}


def test_messages_and_pages_name_commands_that_exist() -> None:
    named = sorted({text for program, text in places() if program == "controller"})
    assert len(named) > 40
    for text in named:
        unknown = set(OPTION.findall(text)) - options_of(text.split()) - {"--install-completion"}
        assert not unknown, f"`nanofleet {text}`: {unknown}"


def test_the_agents_commands_exist(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in sorted({text.split()[0] for program, text in places() if program == "agent"}):
        with pytest.raises(SystemExit) as ended:
            agent([verb, "--help"])
        assert ended.value.code == 0, verb
    capsys.readouterr()
