"""Each part of the package installs what its processes import, and nothing that none of them does.

The extras of pyproject.toml are written by hand; the imports are followed from each process's
entry point through our own modules, late imports included.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.test_imports import OURS, ROOT

# What a distribution is called when it is not called as the module that it brings.
MODULES = {
    "googleapis-common-protos": "google.rpc",
    "grpcio": "grpc",
    "grpcio-health-checking": "grpc_health",
    "grpcio-reflection": "grpc_reflection",
    "llama-cpp-python": "llama_cpp",
    "optimum-quanto": "optimum",
    "protobuf": "google.protobuf",
    "pyyaml": "yaml",
}
# The processes of each extra, by their entry points.
PROCESSES = {
    "agent": ("agent.cli", "agent.daemon", "agent.join"),
    # A worker imports its engine by name.
    "infer": ("agent.inference.worker", "agent.inference.llama"),
    "onnx": ("agent.inference.worker", "agent.inference.onnx.engine"),
    "reference": ("agent.inference.worker", "agent.inference.reference.engine"),
    "train": ("agent.training.worker", "agent.training.prepare"),
    "train-cuda": ("agent.training.worker", "agent.training.prepare"),
    "controller": ("controller", "controller.cli.__main__", "artifacts.convert.__main__"),
    "serve": ("controller.web.app", "controller.web.server"),
    "qint8": ("artifacts.convert.qint8",),
    "proof": ("artifacts.convert.proof",),
}
# Of an extra of its own; who imports it says what to install.
APART = {
    "artifacts.convert.qint8",
    "artifacts.convert.proof",
    "controller.web.app",
    "controller.web.server",
}
# Installed beside another one, whose packages it needs as well.
BESIDE = {"serve": "controller"}
# Imported by name only, where Python is too old for its own.
BY_NAME = {"tomli"}
# A part of a distribution that is named.
BROUGHT_ALONG = {"pydantic_core"}


def source_of(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split("."))
    found = [file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()]
    return found[0] if found else None


def imported(path: Path) -> Iterator[str]:
    """Everything that a module imports when it runs; what only a type checker reads is left out."""
    tree = ast.parse(path.read_text())
    unread = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in unread:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def others(entries: tuple[str, ...]) -> set[str]:
    """The modules of others that the processes may load: "grpc", "google.rpc"."""
    seen: set[str] = set()
    found: set[str] = set()
    waiting = list(entries)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        first, *rest = name.split(".")
        if first in OURS:
            path = source_of(name)
            waiting += [name.rpartition(".")[0]] if rest else []
            waiting += set(imported(path)) - APART if path else ()
        elif first == "google":
            found.update([".".join([first, *rest[:1]])] if rest else [])
        elif first not in sys.stdlib_module_names:
            found.add(first)
    return found


def required(section: str) -> set[str]:
    """The modules that a list of pyproject.toml installs. By hand: Python 3.10 reads no TOML."""
    text = (ROOT / "pyproject.toml").read_text()
    listed = re.search(rf"^{section} = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert listed, section
    names = re.findall(r'^ *"([\w-]+)', listed[1], re.MULTILINE)
    return {MODULES.get(name.lower(), name.lower().replace("-", "_")) for name in names}


@pytest.mark.parametrize("extra", ["agent", "train", "infer", "reference", "qint8"])
@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_on_64_bit_arm_no_extra_takes_a_torch_that_brings_cuda(extra: str, python: str) -> None:
    """From 2.11 on torch's own wheels for it do; the one that is asked for by name may."""
    here = {"platform_machine": "aarch64", "python_version": python}
    text = (ROOT / "pyproject.toml").read_text()
    listed = re.search(rf"^{extra} = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert listed
    wanted = [Requirement(line) for line in re.findall(r'^ *"(.+)",$', listed[1], re.MULTILINE)]
    here_wanted = [one for one in wanted if not one.marker or one.marker.evaluate(here)]
    torches = [one for one in here_wanted if one.name == "torch"]
    assert len(torches) == (extra in ("train", "reference", "qint8"))
    assert all("2.10.0" in one.specifier for one in torches)
    assert not any("2.11.0" in one.specifier or "2.13.0" in one.specifier for one in torches)


@pytest.mark.parametrize("extra", PROCESSES)
def test_an_extra_is_what_its_processes_import(extra: str) -> None:
    base, wanted = required("dependencies"), others(PROCESSES[extra]) - BROUGHT_ALONG
    if extra in BESIDE:
        base |= required(BESIDE[extra])
    assert wanted - base <= required(extra), "imported and not installed"
    assert required(extra) - BY_NAME <= wanted, "installed and not imported"
