"""A base install, without the extras, answers with a sentence instead of a traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

from protos import extras

ROOT = Path(__file__).resolve().parents[2]
# Makes one library impossible to import, as if it had never been installed.
WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {library!r} or name.startswith({library!r} + "."):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from {module} import main
sys.argv = {argv!r}
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("module", "library", "argv", "extra"),
    [
        ("controller.cli.__main__", "typer", ["nanofleet", "version"], "nanofleet[controller]"),
        ("controller.cli.main", "starlette", ["nanofleet", "serve"], "nanofleet[serve]"),
        ("agent.cli", "google.rpc", ["nanofleet-agent", "run"], "nanofleet[agent]"),
        ("agent.cli", "cryptography", ["nanofleet-agent", "join", "a.b.c@d:1"], "nanofleet[agent]"),
    ],
)
def test_a_missing_extra_is_named(
    module: str, library: str, argv: list[str], extra: str, tmp_path: Path
) -> None:
    command = WITHOUT.format(module=module, library=library, argv=argv)
    done = subprocess.run(
        [sys.executable, "-c", command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={"NANOFLEET_STATE": str(tmp_path), "PATH": ""},
    )
    assert done.returncode == 5, done.stderr
    assert extra in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_module_of_ours_is_a_defect() -> None:
    error = ModuleNotFoundError("No module named 'agent.nothing'", name="agent.nothing")
    with pytest.raises(ModuleNotFoundError):
        extras.missing(error, "agent")
