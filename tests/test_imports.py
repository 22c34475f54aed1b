"""Imports run downwards only, and the light processes stay light.

The first half reads the source of every module; the second half imports the entry points in fresh
interpreters and looks at what came along.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# What each part may import of ours. A longer prefix overrides a shorter one.
ALLOWED: dict[str, tuple[str, ...]] = {
    "protos": ("protos",),
    "jetson": ("jetson",),
    "artifacts": ("artifacts", "protos"),
    "agent": ("agent", "artifacts", "jetson", "protos"),
    "agent.training": (
        "agent.training",
        "agent.memory",
        "agent.model",
        "agent.tokens",
        "agent.workers.attempt",
        "agent.workers.beat",
        "agent.workers.channel",
        "agent.workers.commands",
        "agent.workers.own_log",
        "agent.workers.residency",
        "agent.quality",
        "artifacts",
        "protos",
    ),
    "agent.inference": (
        "agent.inference",
        "agent.model",
        "agent.tokens",
        "agent.workers.channel",
        "agent.workers.residency",
        "agent.quality",
        "artifacts",
        "protos",
    ),
    "agent.batch": (
        "agent.batch",
        "agent.inference",
        "agent.memory",
        "agent.workers.attempt",
        "agent.workers.beat",
        "agent.workers.channel",
        "agent.workers.commands",
        "agent.workers.own_log",
        "agent.workers.residency",
        "agent.quality",
        "artifacts",
        "protos",
    ),
    "agent.model": ("agent.model", "artifacts", "protos"),
    "agent.quality": ("agent.quality",),
    "agent.tokens": ("agent.tokens", "protos"),
    "agent.workers": (
        "agent.workers",
        "artifacts.durable",
        "artifacts.headroom",
        "artifacts.parent",
        "artifacts.persisting",
        "protos",
    ),
    "agent.operating": ("agent.operating", "artifacts", "jetson", "protos"),
    "agent.memory": ("agent.memory", "artifacts", "jetson", "protos"),
    "agent.jobs": (
        "agent.clock",
        "agent.jobs",
        "agent.memory",
        "agent.threads",
        "agent.workers",
        "artifacts",
        "protos",
    ),
    "controller": ("controller", "artifacts", "protos"),
    "controller.gateway": (
        "artifacts.base_model",
        "controller.Fleet",
        "controller.catalogue",
        "controller.facts",
        "controller.gateway",
        "controller.jobfields",
        "controller.lineage",
        "controller.placement",
        "controller.records",
        "controller.selector",
        "controller.web.door",
        "controller.web.exchange",
        "protos",
    ),
    "controller.web": ("controller.Fleet", "controller.gateway", "controller.web", "protos"),
}
OURS = ("agent", "artifacts", "controller", "jetson", "protos")
HEAVY = (
    "torch",
    "transformers",
    "peft",
    "numpy",
    "llama_cpp",
    "gguf",
    "onnx",
    "onnxruntime",
    "jtop",
)


def modules() -> Iterator[tuple[str, Path]]:
    for package in OURS:
        for path in sorted((ROOT / package).rglob("*.py")):
            if not path.stem.endswith(("_pb2", "_pb2_grpc")):
                name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                yield name.removesuffix(".__init__"), path


def imported(path: Path) -> Iterator[str]:
    """The full names of what a module imports of ours, at any depth of its code."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in OURS)


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


@pytest.mark.parametrize(("module", "path"), list(modules()), ids=lambda value: str(value))
def test_a_module_imports_only_what_its_part_may(module: str, path: Path) -> None:
    part = max((name for name in ALLOWED if within(module, name)), key=len)
    wrong = [name for name in imported(path) if not any(within(name, ok) for ok in ALLOWED[part])]
    assert not wrong, f"{module} (of {part}) imports {wrong}"


def test_the_service_is_started_by_its_command_alone() -> None:
    """Whoever uses the library or another command needs none of what it is made of."""
    service = ("controller.web", "controller.gateway")
    importers = {
        name
        for name, path in modules()
        if not any(within(name, part) for part in service)
        and any(within(found, part) for found in imported(path) for part in service)
    }
    assert importers == {"controller.cli.serve"}


def test_jetson_stats_is_named_by_the_program_that_reads_it_alone() -> None:
    """AGPL, and it changes how processes are started in whoever imports it."""
    names = {
        name
        for name, path in modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Import) and any(alias.name == "jtop" for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jtop")
        or (isinstance(node, ast.Call) and ast.unparse(node) == "importlib.import_module('jtop')")
    }
    assert names == {"jetson.jtop_reader"}
    importers = [name for name, path in modules() if "jetson.jtop_reader" in set(imported(path))]
    assert importers == []


@pytest.mark.parametrize(
    ("entry", "forbidden"),
    [
        ("agent.daemon", (*HEAVY, "cryptography", "rich", "typer", "sqlalchemy", "controller")),
        ("agent.cli", (*HEAVY, "cryptography", "controller")),
        ("controller", (*HEAVY, "agent", "jetson", "starlette", "uvicorn")),
        ("controller.cli.main", (*HEAVY, "agent", "jetson", "starlette", "uvicorn")),
        ("controller.web.app", (*HEAVY, "agent", "jetson", "rich", "typer")),
    ],
)
def test_an_entry_point_loads_nothing_heavy(entry: str, forbidden: tuple[str, ...]) -> None:
    script = f"import sys, {entry}; print(*sorted({{n.split('.')[0] for n in sys.modules}}))"
    loaded = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert not set(forbidden) & set(loaded)
