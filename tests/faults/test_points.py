"""The list of persist points is whole: whatever syncs, renames or commits passes through it."""

import ast
import timeit
from collections.abc import Iterator

import pytest

from artifacts.persisting import Point
from tests.test_imports import modules

# Renames of what nobody relies on after a crash, and syncs that are only timed.
NO_PROMISE = {"agent.doctor.storage", "agent.workers.log", "jetson.simulation.replay"}
# The two that durable.py's other functions are made of; those stand in their callers' points.
BRICKS = {("artifacts.durable", "sync_folder"), ("artifacts.durable", "_rename")}


class Reader(ast.NodeVisitor):
    """Notes each lasting act that stands in no point."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._function = ""
        self._points = 0
        self.loose: list[str] = []
        self.seen = 0

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        outer, self._function = self._function, node.name
        self.generic_visit(node)
        self._function = outer

    def visit_With(self, node: ast.With) -> None:
        inside = any(is_point(item.context_expr) for item in node.items)
        self._points += inside
        self.generic_visit(node)
        self._points -= inside

    def visit_Call(self, node: ast.Call) -> None:
        if lasts(node):
            self.seen += 1
            if not self._points and (self._module, self._function) not in BRICKS:
                self.loose.append(f"{self._module}:{node.lineno}: {ast.unparse(node)}")
        self.generic_visit(node)


def is_point(expression: ast.expr) -> bool:
    return ast.unparse(expression).startswith("Point.") or ast.unparse(expression) == "point"


def lasts(call: ast.Call) -> bool:
    """A sync, a rename or a commit. ``x.replace(y)`` is a path's: a text's has two arguments."""
    text = ast.unparse(call)
    name = call.func.attr if isinstance(call.func, ast.Attribute) else text.partition("(")[0]
    if name in ("fsync", "fdatasync", "rename", "sync_folder"):
        return True
    if name == "replace":
        is_path = isinstance(call.func, ast.Attribute) and len(call.args) == 1 and not call.keywords
        return "os.replace" in text or is_path
    return "'COMMIT'" in text or text.endswith("transaction.commit()")


def read() -> Iterator[tuple[str, Reader]]:
    for module, path in modules():
        reader = Reader(module)
        reader.visit(ast.parse(path.read_text()))
        yield module, reader


def test_every_lasting_act_stands_in_a_point() -> None:
    found = dict(read())
    loose = [said for module, reader in found.items() for said in reader.loose
             if module not in NO_PROMISE]  # fmt: skip
    assert loose == []
    assert sum(reader.seen for reader in found.values()) > 20, "the reader finds none any more"


@pytest.mark.parametrize("point", Point, ids=lambda point: point.value)
def test_no_point_is_left_over(point: Point) -> None:
    assert any(f"Point.{point.name}" in path.read_text() for _, path in modules())


def test_passing_a_point_costs_nothing() -> None:
    def passing() -> None:
        with Point.JOURNAL_TRANSITION:
            pass

    assert min(timeit.repeat(passing, number=1000, repeat=5)) / 1000 < 5e-6
