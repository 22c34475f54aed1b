"""Artifacts: checked, named, pushed and pulled, with a real agent at the other end."""

import asyncio
import random
from pathlib import Path

import pytest

from artifacts import digest, pieces
from artifacts.digest import Digest
from artifacts.store import ArtifactStore
from controller import Fleet, ImportProgress, TransferProgress, partial_file
from protos.errors import (
    DigestMismatch,
    InvalidDataset,
    InvalidRequest,
    NotFound,
)
from protos.nanofleet.v1 import artifact_pb2

MODEL = artifact_pb2.ARTIFACT_KIND_BASE_MODEL


def rewrite(path: Path, text: str) -> None:
    path.write_text(text)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


async def test_a_dataset_is_checked_named_and_found(empty_fleet: Fleet, dataset: Path) -> None:
    entry = await empty_fleet.add_dataset(dataset)
    assert entry.name == "persona"
    assert entry.details["samples"] == 6
    assert entry.details["shape"] == "chat"
    assert empty_fleet.resolve(entry.digest[:20]) == entry
    assert empty_fleet.artifacts() == [entry]
    assert await empty_fleet.add_dataset(dataset) == entry


async def test_a_name_moves_to_the_newer_bytes(empty_fleet: Fleet, dataset: Path) -> None:
    first = await empty_fleet.add_dataset(dataset)
    rewrite(dataset, '{"text": "something else entirely"}\n')
    second = await empty_fleet.add_dataset(dataset)
    assert empty_fleet.resolve("persona") == second
    assert empty_fleet.resolve(first.digest).name == ""


async def test_a_bad_dataset_is_refused_with_its_line(empty_fleet: Fleet, dataset: Path) -> None:
    rewrite(dataset, '{"text": "fine"}\n{"text": \n')
    with pytest.raises(InvalidDataset, match=r"persona\.jsonl:2"):
        await empty_fleet.add_dataset(dataset)
    with pytest.raises(NotFound, match=r"nowhere\.jsonl"):
        await empty_fleet.add_dataset(dataset.with_name("nowhere.jsonl"))
    assert empty_fleet.artifacts() == []


async def test_a_model_from_a_folder(empty_fleet: Fleet, tiny_folder: Path) -> None:
    stages: list[ImportProgress] = []
    entry = await empty_fleet.import_model(tiny_folder, on_progress=stages.append)
    assert (entry.name, entry.kind) == (tiny_folder.name, MODEL)
    assert entry.details["architecture"] == "gemma3"
    assert entry.details["file_type"] == "Q8_0"
    assert entry.details["instruct"] is True
    assert stages[-1].done <= stages[-1].total
    assert not list((empty_fleet.home / "scratch").iterdir())


async def test_models_that_are_none(empty_fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFound, match=r"config\.json"):
        await empty_fleet.import_model(tmp_path / "empty")
    (tmp_path / "x.gguf").write_bytes(b"GGUF but not really")
    with pytest.raises(InvalidRequest, match=r"x\.gguf"):
        await empty_fleet.import_model(tmp_path / "x.gguf")
    with pytest.raises(NotFound):
        await empty_fleet.import_model(tmp_path / "nowhere")
    with pytest.raises(InvalidRequest, match="q8_0"):
        await empty_fleet.import_model(tmp_path / "empty", file_type="int3")


async def test_push_list_pull_remove(fleet: Fleet, tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    noise = random.Random(0)
    rewrite(path, "".join(f'{{"text": "{noise.randbytes(50).hex()}"}}\n' for _ in range(9000)))
    entry = await fleet.add_dataset(path)
    progress: list[TransferProgress] = []
    (sent,) = await fleet.push("dataset/notes", ["kitchen"], progress.append)
    assert (sent.already_there, sent.sent_bytes) == (False, entry.size_bytes)
    assert progress[-1].moved_bytes == entry.size_bytes
    (again,) = await fleet.push("notes", ["kitchen"])
    assert (again.already_there, again.sent_bytes) == (True, 0)
    assert entry.digest in {found.digest for found in await fleet.remote_artifacts("kitchen")}
    pulled = await fleet.pull("kitchen", entry.digest, tmp_path / "back.zst")
    assert pulled.sent_bytes == entry.size_bytes
    assert digest.of_file(tmp_path / "back.zst") == entry.digest
    await fleet.remove_artifact("notes", device="kitchen")
    with pytest.raises(NotFound, match="does not hold"):
        await fleet.pull("kitchen", entry.digest, tmp_path / "again.zst")
    await fleet.remove_artifact("notes")
    with pytest.raises(NotFound):
        fleet.resolve("notes")


async def test_a_download_goes_on_where_it_ended_and_is_verified(
    fleet: Fleet, tmp_path: Path
) -> None:
    entry = fleet.resolve("tiny")
    await fleet.push("tiny", ["kitchen"])
    target = tmp_path / "tiny.gguf"
    await fleet.pull("kitchen", entry.digest, target)
    again, size_bytes = tmp_path / "again.gguf", entry.size_bytes
    with partial_file.begin(again, Digest(entry.digest), size_bytes, MODEL) as cut:
        cut.write(target.read_bytes()[:500_000])
    # Bytes that no journal speaks of, as after a power cut, are not believed.
    (part,) = (tmp_path / ".again.gguf.part").glob("*[0-9a-f]")
    with part.open("ab") as file:
        file.write(bytes(100_000))
    resumed = await fleet.pull("kitchen", entry.digest, again)
    assert resumed.sent_bytes == size_bytes - 500_000
    assert digest.of_file(again) == entry.digest
    assert names(tmp_path) == {"tiny.gguf", "again.gguf"}
    with partial_file.begin(again, Digest(entry.digest), size_bytes, MODEL) as cut:
        cut.write(bytes(500_000))
    with pytest.raises(DigestMismatch):
        await fleet.pull("kitchen", entry.digest, again)
    assert digest.of_file(again) == entry.digest, "what was there is as it was"
    assert names(tmp_path) == {"tiny.gguf", "again.gguf"}
    with pytest.raises(InvalidRequest, match="cannot be written"):
        await fleet.pull("kitchen", entry.digest, tmp_path / "no folder" / "x")


async def test_what_another_process_is_adding_is_waited_for(
    empty_fleet: Fleet, tmp_path: Path
) -> None:
    source = tmp_path / "notes.bin"
    source.write_bytes(b"x" * 1000)
    kind = artifact_pb2.ARTIFACT_KIND_CHECKPOINT
    other = ArtifactStore(empty_fleet.home / "artifacts").begin(
        digest.of_file(source), 1000, kind, 0
    )
    asyncio.get_running_loop().call_later(0.2, other.close)
    entry = await empty_fleet.add_artifact(source, kind)
    assert entry.digest == digest.of_file(source)


async def test_another_version_of_a_large_artifact_is_sent_in_part(
    fleet: Fleet, tmp_path: Path
) -> None:
    """What it has in common with the first one is copied on the device."""
    data = bytearray(random.Random(3).randbytes(pieces.LEAST_BYTES + 5))
    first, second = tmp_path / "first", tmp_path / "second"
    await asyncio.to_thread(first.write_bytes, data)
    data[5 * pieces.PIECE_BYTES] ^= 1
    await asyncio.to_thread(second.write_bytes, data)
    kind = artifact_pb2.ARTIFACT_KIND_CHECKPOINT
    for path in (first, second):
        await fleet.add_artifact(path, kind, name=path.name)
    (whole,) = await fleet.push("first", "kitchen")
    progress: list[TransferProgress] = []
    (part,) = await fleet.push("second", "kitchen", progress.append)
    assert whole.sent_bytes == len(data)
    assert part.sent_bytes == pieces.PIECE_BYTES
    moved = [each.moved_bytes for each in progress]
    assert moved == sorted(moved)
    assert moved[-1] == len(data)
    digest = fleet.resolve("second").digest
    held = {found.digest: found.size_bytes for found in await fleet.remote_artifacts("kitchen")}
    assert held[digest] == len(data)
    for name in ("first", "second"):
        await fleet.remove_artifact(name, device="kitchen")
