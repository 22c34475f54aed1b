"""A merged model says what base and adapter say together; what cannot be merged is refused."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from artifacts import base_model
from artifacts import digest as digests
from artifacts.adapter import MANIFEST
from artifacts.convert import FileType, convert_model, merge_adapter
from artifacts.convert.checkpoint import read_checkpoint
from artifacts.manifest import AdapterManifest
from protos.errors import AlreadyExists, DiskFull, InvalidRequest, WrongBase
from tests.artifacts.convert import shapes
from tests.llama import reference

# Of a bfloat16, relative: eight bits of mantissa.
_HALF_PLACE = 2.0**-8


@pytest.fixture(scope="session")
def adapter(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("merge") / "peft"
    shapes.write_adapter(shapes.load(tiny_folder), folder)
    return folder


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True, "r": 4}], ids=["plain", "rslora"])
def test_merged_weights_and_logits_are_those_of_peft(
    checkpoint: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    tokens, target = shapes.prompt(), tmp_path / "merged"
    model = shapes.load(checkpoint)
    plain = shapes.logits(model, tokens)
    adapted = shapes.write_adapter(model, tmp_path / "peft", **settings)
    expected = shapes.logits(adapted, tokens)
    merge_adapter(tmp_path / "peft", checkpoint, target)

    weights = adapted.merge_and_unload().state_dict()
    for name, tensor in read_checkpoint(target).items():
        found, wanted = tensor.rows(0, tensor.shape[0]), weights[name].numpy()
        assert tensor.dtype == "BF16"
        assert (np.abs(found - wanted) <= _HALF_PLACE * np.abs(wanted) + 1e-7).all(), name
    found = shapes.logits(shapes.load(target), tokens)
    # What rounding does is small beside what the adapter does.
    assert shapes.divergence(expected, found) < 0.02 * shapes.divergence(expected, plain)


def test_the_merged_folder_is_imported_and_generates(checkpoint: Path, tmp_path: Path) -> None:
    target, gguf_path = tmp_path / "merged", tmp_path / "merged.gguf"
    shapes.write_adapter(shapes.load(checkpoint), tmp_path / "peft")
    merge_adapter(tmp_path / "peft", checkpoint, target)
    convert_model(target, gguf_path, FileType.F32)
    with reference(gguf_path) as llama:
        for start, generated in shapes.generations(shapes.load(target), shapes.prompt()):
            assert llama.greedy(start, len(generated)) == generated


def test_without_a_change_every_weight_keeps_its_bits(tiny_folder: Path, tmp_path: Path) -> None:
    """The norms, the embedding, and the matrices that the adapter does not name."""
    shapes.write_adapter(shapes.load(tiny_folder), tmp_path / "peft", target_modules=["q_proj"])
    merge_adapter(tmp_path / "peft", tiny_folder, tmp_path / "merged")
    before, after = read_checkpoint(tiny_folder), read_checkpoint(tmp_path / "merged")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        same = np.array_equal(tensor.rows(0, tensor.shape[0]), after[name].rows(0, tensor.shape[0]))
        assert same is ("q_proj" not in name), name


@pytest.mark.parametrize("quantised", ["gguf", "folder"])
def test_a_quantised_base_is_refused(
    tiny_folder: Path, adapter: Path, tmp_path: Path, quantised: str
) -> None:
    if quantised == "gguf":
        base = tmp_path / "base.gguf"
        convert_model(tiny_folder, base)
    else:
        base = Path(shutil.copytree(tiny_folder, tmp_path / "base"))
        config = json.loads((base / "config.json").read_text())
        config["quantization_config"] = {"quant_method": "quanto", "weights": "int8"}
        (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidRequest) as refused:
        merge_adapter(adapter, base, tmp_path / "merged")
    assert refused.value.reason == "QUANTISED_BASE"
    assert "drops or distorts" in refused.value.why
    assert not (tmp_path / "merged").exists()


def test_an_adapter_of_other_shapes_is_refused(adapter: Path, tmp_path: Path) -> None:
    from tests.tiny import build_hugging_face_folder

    other = build_hugging_face_folder(tmp_path / "other", layers=6, hidden=64)
    with pytest.raises(InvalidRequest, match="is adapted by"):
        merge_adapter(adapter, other, tmp_path / "merged")
    shallow = build_hugging_face_folder(tmp_path / "shallow", layers=2)
    with pytest.raises(InvalidRequest, match="no pair of A and B"):
        merge_adapter(adapter, shallow, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_dora_is_refused(adapter: Path, tiny_folder: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(adapter, tmp_path / "copied"))
    config = json.loads((copied / "adapter_config.json").read_text())
    (copied / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    with pytest.raises(InvalidRequest, match=r"DoRA \(`use_dora`\) cannot be merged"):
        merge_adapter(copied, tiny_folder, tmp_path / "merged")


ZEROS = digests.parse("sha256:" + "0" * 64)


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({}, ""),
        ({"source_digest": None}, ""),
        ({"tokenizer_digest": ZEROS}, "It goes with the tokenizer 000000000000; the folder"),
        ({"source_digest": ZEROS}, "made of the original weights 000000000000; the folder's are "),
    ],
    ids=["its own", "from before sources", "another tokenizer", "other weights"],
)
def test_the_manifest_says_what_it_was_trained_on(
    adapter: Path, tiny_folder: Path, tmp_path: Path, changes: dict[str, Any], refusal: str
) -> None:
    copied = Path(shutil.copytree(adapter, tmp_path / "copied"))
    convert_model(tiny_folder, tmp_path / "base.gguf")
    base = base_model.read(tmp_path / "base.gguf")
    manifest = AdapterManifest(
        name="persona",
        base_digest="sha256:" + "b" * 64,  # type: ignore[arg-type]
        tokenizer_digest=base.tokenizer_digest,
        source_digest=base.source_digest,
        rank=8,
        alpha=16,
        targets=("q_proj",),
        created_utc_ns=1,
        imported_from="peft",
    )
    (copied / MANIFEST).write_bytes(dataclasses.replace(manifest, **changes).to_json())
    if not refusal:
        merge_adapter(copied, tiny_folder, tmp_path / "merged")
        assert (tmp_path / "merged").is_dir()
        return
    with pytest.raises(WrongBase, match="does not fit the model in") as caught:
        merge_adapter(copied, tiny_folder, tmp_path / "merged")
    assert refusal in caught.value.why
    assert not (tmp_path / "merged").exists()


def test_a_folder_is_replaced_only_when_asked_to_be(
    adapter: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    target = tmp_path / "merged"
    target.mkdir()
    (target / "mine.txt").write_text("keep")
    with pytest.raises(AlreadyExists):
        merge_adapter(adapter, tiny_folder, target)
    assert [path.name for path in target.iterdir()] == ["mine.txt"]
    merge_adapter(adapter, tiny_folder, target, replace=True)
    assert not (target / "mine.txt").exists()
    assert (target / "model.safetensors").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]


def test_the_sources_are_never_replaced(adapter: Path, tiny_folder: Path) -> None:
    for target in (adapter, tiny_folder, tiny_folder.parent):
        with pytest.raises(InvalidRequest, match="which is read"):
            merge_adapter(adapter, tiny_folder, target, replace=True)


def test_a_disk_without_room_is_refused_before_the_first_byte(
    adapter: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("artifacts.headroom.free_bytes", lambda folder: 1000)
    with pytest.raises(DiskFull):
        merge_adapter(adapter, tiny_folder, tmp_path / "merged")
    assert not list(tmp_path.iterdir())


def test_a_killed_merge_leaves_nothing_under_the_name(
    adapter: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    target = tmp_path / "merged"
    command = [sys.executable, "-m", "artifacts.convert", "merge"]
    child = subprocess.Popen(
        [*command, str(adapter), str(tiny_folder), str(target)], stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert json.loads(child.stdout.readline())["event"] == "progress"
    child.kill()
    child.wait()
    child.stdout.close()
    # Killed too late, the folder is there, and whole.
    if target.exists():
        assert read_checkpoint(target).keys() == read_checkpoint(tiny_folder).keys()
    merge_adapter(adapter, tiny_folder, target, replace=True)
    assert read_checkpoint(target)
