"""What feeds a board, as the kernel tells it; and how often the swap was read."""

from pathlib import Path

import pytest

from jetson import memory
from jetson.simulation import tree
from jetson.simulation.tree import Tree, write
from jetson.supply import Supply, find_supplies, read_supply
from tests.jetson.trees import spoiled

JACK: Tree = {}
PORT = tree.supply("ucsi-source-psy-1", "USB", online=0)
CHARGER = tree.supply("ac", "Mains", online=1)
UNPLUGGED = tree.supply("ac", "Mains", online=0)
FULL = tree.supply("bq27441-0", "Battery", capacity=97, status="Full")
EMPTYING = tree.supply("bq27441-0", "Battery", capacity=41, status="Discharging")
SECOND = tree.supply("bat1", "Battery", capacity=60, status="Unknown")
PAD = tree.supply("pad", "Battery", capacity=5, status="Discharging", scope="Device")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (JACK, None),
        # The jack feeds an Orin whose port is free.
        (PORT, None),
        (PORT | PAD, None),
        (CHARGER, Supply(True, None)),
        (tree.supply("port", "USB_PD", online=1), Supply(True, None)),
        (CHARGER | FULL, Supply(True, 97)),
        # A charger that is too weak is one all the same.
        (CHARGER | EMPTYING, Supply(True, 41)),
        (UNPLUGGED | EMPTYING, Supply(False, 41)),
        (UNPLUGGED | SECOND, Supply(False, 60)),
        (EMPTYING, Supply(False, 41)),
        (FULL, Supply(True, 97)),
        (EMPTYING | SECOND, Supply(False, 50.5)),
        (SECOND, Supply(None, 60)),
        (tree.supply("fan", "Fan", online=1), None),
    ],
)
def test_supplies(files: Tree, expected: Supply | None, tmp_path: Path) -> None:
    assert read_supply(find_supplies(write(files, tmp_path))) == expected


@pytest.mark.parametrize("files", [CHARGER | EMPTYING, PORT | FULL])
def test_spoiled_files_tell_nothing_wild(files: Tree, tmp_path: Path) -> None:
    """Found before they were spoiled, and after."""
    write(files, tmp_path)
    found = find_supplies(tmp_path)
    before = read_supply(found)
    assert before is not None
    for file, _ in spoiled(files, tmp_path):
        for supplies in (found, find_supplies(tmp_path)):
            read = read_supply(supplies)
            assert read is None or read.battery_percent in (None, before.battery_percent)
            if "bq27441" not in file and before.on_mains and supplies is found:
                assert read is not None
                assert read.battery_percent == before.battery_percent


def test_what_came_back_from_swap(tmp_path: Path) -> None:
    assert memory.read_swapped_in_bytes(tmp_path) is None
    write(tree.swapped_in(25), tmp_path)
    assert memory.read_swapped_in_bytes(tmp_path, page_bytes=4096) == 102_400
    for _, way in spoiled(tree.swapped_in(25), tmp_path):
        assert memory.read_swapped_in_bytes(tmp_path) is None, way
