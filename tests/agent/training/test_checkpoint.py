"""Checkpoints: whole or not at all, two generations, and never another recipe's."""

import math
from pathlib import Path

import pytest
import torch

from agent.training import checkpoint
from agent.training.checkpoint import Checkpoint, CheckpointFolder, Settings
from agent.training.failures import TrainingFailure
from agent.training.trainer import Evaluation, Progress
from protos.nanofleet.v1 import job_pb2
from tests.agent.training.driver import recipe

SETTINGS = Settings(
    checkpoint.recipe_digest(recipe()),
    threads=3,
    data_type="bfloat16",
    packing=True,
    chunk_rows=4096,
)


def at(micro_steps: int) -> Checkpoint:
    progress = Progress(
        micro_steps=micro_steps,
        step_loss=0.1 + 0.2,
        first_loss=math.nan,
        last_loss=1 / 3,
        best=Evaluation(1, 1, 1 / 7, 9, 2, 0.1),
    )
    state = {"adapter.a": torch.full((2, 3), float(micro_steps)), "random_state": torch.arange(5)}
    return Checkpoint(SETTINGS, progress, state)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_was_saved_is_found(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "checkpoints")
    assert folder.newest(SETTINGS.recipe_digest) is None
    size = folder.save(at(12))
    assert (tmp_path / "checkpoints" / "0000000012.safetensors").stat().st_size == size
    found = folder.newest(SETTINGS.recipe_digest)
    assert found is not None
    assert found.settings == SETTINGS
    # repr: NaN equals nothing, and the others must be equal to the last bit.
    assert repr(found.progress) == repr(at(12).progress)
    assert found.state.keys() == at(12).state.keys()
    for name, tensor in at(12).state.items():
        assert torch.equal(found.state[name], tensor)


def test_two_generations_are_kept(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    for micro_steps in (8, 999, 100_000):
        folder.save(at(micro_steps))
    assert names(tmp_path) == ["0000000999.safetensors", "0000100000.safetensors"]


@pytest.mark.parametrize("damage", ["cut", "zeros", "empty", "one bit"])
def test_a_damaged_one_costs_one_generation(tmp_path: Path, damage: str) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.save(at(4))
    folder.save(at(8))
    newest = tmp_path / "0000000008.safetensors"
    content = newest.read_bytes()
    damaged = {
        "cut": content[:-9],
        "zeros": bytes(len(content)),
        "empty": b"",
        "one bit": bytes((*content[:-1], content[-1] ^ 1)),
    }
    newest.write_bytes(damaged[damage])
    found = folder.newest(SETTINGS.recipe_digest)
    assert found is not None
    assert found.progress.micro_steps == 4
    (problem,) = folder.problems
    assert problem.startswith("The checkpoint 0000000008.safetensors is not readable")


def test_a_new_one_outlives_damaged_ones_ahead_of_it(tmp_path: Path) -> None:
    for micro_steps in (30, 40):
        CheckpointFolder(tmp_path).save(at(micro_steps))
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    folder = CheckpointFolder(tmp_path)
    assert folder.newest(SETTINGS.recipe_digest) is None
    folder.save(at(10))
    found = CheckpointFolder(tmp_path).newest(SETTINGS.recipe_digest)
    assert found is not None
    assert found.progress.micro_steps == 10


def test_what_a_power_cut_left_is_removed(tmp_path: Path) -> None:
    """Its process is gone: the kernel gives no such number."""
    (tmp_path / ".0000000004.safetensors.9999999.tmp").write_bytes(b"half")
    CheckpointFolder(tmp_path).save(at(8))
    assert names(tmp_path) == ["0000000008.safetensors"]


def test_another_recipe_is_refused(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.save(at(4))
    with pytest.raises(TrainingFailure, match="another recipe") as caught:
        folder.newest(checkpoint.recipe_digest(recipe(learning_rate=0.5)))
    assert caught.value.cause == job_pb2.CAUSE_BAD_SPEC


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"stored_layers": 5}, True),
        ({"threads": 2}, True),
        ({"checkpoint_period_s": 9}, True),
        ({"dataset_name": "other.jsonl"}, True),
        ({"seed": 8}, False),
        ({"steps": 5}, False),
        ({"dataset_digest": "sha256:" + "e" * 64}, False),
        ({"lora_rank": 2}, False),
    ],
)
def test_what_decides_the_numbers(changes: dict[str, object], same: bool) -> None:
    assert (checkpoint.recipe_digest(recipe(**changes)) == SETTINGS.recipe_digest) is same
