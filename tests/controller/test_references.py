"""References: names within kinds, digests and their beginnings, and help when they are wrong."""

from pathlib import Path

import pytest

from controller import references
from controller.records import CatalogueEntry
from protos.errors import InvalidRequest, NotFound
from protos.nanofleet.v1 import artifact_pb2

MODEL = artifact_pb2.ARTIFACT_KIND_BASE_MODEL
DATASET = artifact_pb2.ARTIFACT_KIND_DATASET
ADAPTER = artifact_pb2.ARTIFACT_KIND_ADAPTER

ENTRIES = [
    CatalogueEntry("gemma-3-1b-it", "sha256:" + "ab" * 32, 1, MODEL),
    CatalogueEntry("persona", "sha256:" + "cd" * 32, 1, DATASET),
    CatalogueEntry("persona", "sha256:" + "cd" * 31 + "00", 1, ADAPTER),
]


@pytest.mark.parametrize(
    ("reference", "kind", "index"),
    [
        ("gemma-3-1b-it", None, 0),
        ("persona", DATASET, 1),
        ("persona", ADAPTER, 2),
        ("adapter/persona", None, 2),
        ("dataset/persona", None, 1),
        ("sha256:" + "ab" * 32, None, 0),
        ("abababab", None, 0),
        ("sha256:abababab", MODEL, 0),
        ("cdcdcdcd", ADAPTER, 2),
    ],
)
def test_resolves(reference: str, kind: artifact_pb2.ArtifactKind.ValueType, index: int) -> None:
    assert references.resolve(reference, kind, ENTRIES) == ENTRIES[index]


@pytest.mark.parametrize("reference", ["persona", "cdcdcdcd"])
def test_several_are_not_guessed_between(reference: str) -> None:
    with pytest.raises(InvalidRequest, match=r"adapter/persona or dataset/persona"):
        references.resolve(reference, None, ENTRIES)


@pytest.mark.parametrize(
    ("reference", "kind", "fix"),
    [
        ("gemma-3-1b", MODEL, "Did you mean gemma-3-1b-it?"),
        ("llama", MODEL, "There is gemma-3-1b-it."),
        ("gemma-3-1b-it", DATASET, "The model of that name is something else."),
        ("ababab", MODEL, "There is gemma-3-1b-it."),
        ("x", artifact_pb2.ARTIFACT_KIND_CHECKPOINT, "There is no checkpoint at all yet"),
    ],
)
def test_what_is_not_there_is_helped_with(
    reference: str, kind: artifact_pb2.ArtifactKind.ValueType, fix: str
) -> None:
    with pytest.raises(NotFound) as caught:
        references.resolve(reference, kind, ENTRIES)
    assert caught.value.fix.startswith(fix)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("persona.jsonl", "persona"),
        ("my data (2).jsonl", "my-data-2"),
        ("persona.jsonl.zst", "persona"),
        ("Qwen2.5-0.5B.gguf", "Qwen2.5-0.5B"),
        ("deadbeef.jsonl", "artifact-deadbeef"),
        ("???.jsonl", "unnamed"),
    ],
)
def test_a_name_for_a_file(file: str, name: str) -> None:
    assert references.name_for(Path(file)) == name
    assert references.checked_name(name) == name


def test_a_folder_keeps_its_dots(tmp_path: Path) -> None:
    folder = tmp_path / "Qwen2.5"
    folder.mkdir()
    assert references.name_for(folder) == "Qwen2.5"


@pytest.mark.parametrize("name", ["", "a b", "../x", "abcdef01", "x" * 129, "sha256:" + "0" * 64])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(InvalidRequest):
        references.checked_name(name)


def test_a_folder_of_the_hubs_cache_is_named_for_its_repository(tmp_path: Path) -> None:
    folder = tmp_path / "models--ada--persona" / "snapshots" / ("3f" * 20)
    folder.mkdir(parents=True)
    assert references.name_for(folder) == "persona"
