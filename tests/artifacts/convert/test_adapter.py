"""A converted adapter does in llama.cpp what it does in PEFT; what it cannot do is refused."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from artifacts import base_model
from artifacts.convert import FileType, convert_adapter, convert_model, merge_adapter
from protos.errors import InvalidRequest, NotFound
from tests.artifacts.convert import shapes
from tests.llama import reference

EXACT = shapes.EXACT


@pytest.fixture(scope="session")
def adapter(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PEFT folder for the tiny model, on all linear layers."""
    folder = tmp_path_factory.mktemp("adapter") / "peft"
    shapes.write_adapter(shapes.load(tiny_folder), folder)
    return folder


@pytest.fixture
def copied(adapter: Path, tmp_path: Path) -> Path:
    """The same folder, to change."""
    return Path(shutil.copytree(adapter, tmp_path / "copied"))


def configure(folder: Path, changes: dict[str, object]) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True, "r": 4},
        {"target_modules": ["q_proj", "v_proj"], "r": 16, "strength": 0.15},
    ],
    ids=["all-linear", "rslora", "q-and-v"],
)
def test_adapted_logits_are_those_of_peft(
    checkpoint: Path, exact: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    tokens, target = shapes.prompt(), tmp_path / "adapter.gguf"
    model = shapes.load(checkpoint)
    plain = shapes.logits(model, tokens)
    adapted = shapes.write_adapter(model, tmp_path / "peft", **settings)
    expected = shapes.logits(adapted, tokens)
    assert np.abs(expected - plain).max() > 20 * EXACT, "the adapter must matter"

    conversion = convert_adapter(tmp_path / "peft", exact, target)
    trained, _ = adapted.get_nb_trainable_parameters()
    assert conversion.parameters == trained
    with reference(exact) as llama:
        llama.use_adapter(target)
        found = llama.logits(tokens)
        assert np.abs(found - expected).max() < EXACT
        decided = shapes.decided(expected)
        assert (found.argmax(-1) == expected.argmax(-1))[decided].all()
        for start, generated in shapes.generations(adapted, tokens):
            assert llama.greedy(start, len(generated)) == generated
        llama.use_adapter(None)
        assert np.abs(llama.logits(tokens) - plain).max() < EXACT


def test_an_adapter_on_the_quantised_base_stays_close(checkpoint: Path, tmp_path: Path) -> None:
    base, target, tokens = tmp_path / "base.gguf", tmp_path / "adapter.gguf", shapes.prompt()
    convert_model(checkpoint, base, FileType.Q8_0)
    adapted = shapes.write_adapter(shapes.load(checkpoint), tmp_path / "peft")
    expected = shapes.logits(adapted, tokens)
    convert_adapter(tmp_path / "peft", base, target)
    with reference(base) as llama:
        llama.use_adapter(target)
        found = llama.logits(tokens)
    assert shapes.divergence(expected, found) < 1e-4
    assert (found.argmax(-1) == expected.argmax(-1)).mean() >= 0.95


def test_the_header_says_that_it_is_an_adapter(
    adapter: Path, tiny_base: Path, tmp_path: Path
) -> None:
    target = tmp_path / "adapter.gguf"
    convert_adapter(adapter, tiny_base, target)
    fields = gguf.GGUFReader(target).fields
    assert fields["general.architecture"].contents() == base_model.read(tiny_base).architecture
    assert fields["general.type"].contents() == "adapter"
    assert fields["adapter.type"].contents() == "lora"
    assert fields["adapter.lora.alpha"].contents() == 16
    again = tmp_path / "again.gguf"
    convert_adapter(adapter, tiny_base, again)
    assert again.read_bytes() == target.read_bytes()


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        ({"peft_type": "IA3"}, "IA3"),
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "biases"),
        ({"rank_pattern": {"q_proj": 2}}, "ranks by layer"),
        ({"alpha_pattern": {"q_proj": 2}}, "alphas by layer"),
        ({"modules_to_save": ["lm_head"]}, "trained in full"),
        ({"trainable_token_indices": [1]}, "token rows"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"fan_in_fan_out": True}, "transposed"),
    ],
)
def test_what_llama_cpp_would_leave_out_is_refused(
    copied: Path, tiny_base: Path, tmp_path: Path, edit: dict[str, object], named: str
) -> None:
    configure(copied, edit)
    with pytest.raises(InvalidRequest, match=named) as caught:
        convert_adapter(copied, tiny_base, tmp_path / "out.gguf")
    assert caught.value.reason == "UNSUPPORTED_ADAPTER"
    assert not (tmp_path / "out.gguf").exists()


# Each with what PEFT itself writes for it: the tensors, too, are of that kind.
ODD: list[tuple[str, dict[str, Any]]] = [
    ("use_dora", {"use_dora": True}),
    ("rank_pattern", {"rank_pattern": {"q_proj": 2}}),
    ("alpha_pattern", {"alpha_pattern": {"q_proj": 2}}),
    ("bias", {"bias": "lora_only"}),
    ("lora_bias", {"lora_bias": True}),
    ("modules_to_save", {"modules_to_save": ["norm"]}),
    ("trainable_token_indices", {"trainable_token_indices": [1, 2]}),
    ("layer_replication", {"layer_replication": [(0, 2), (1, 3)]}),
    ("init_lora_weights", {"init_lora_weights": "pissa"}),
    ("init_lora_weights", {"init_lora_weights": "olora"}),
]


@pytest.mark.filterwarnings("ignore")  # PEFT warns of much
@pytest.mark.parametrize(("setting", "settings"), ODD)
def test_what_peft_does_beyond_lora_is_refused_by_its_setting(
    tmp_path: Path, setting: str, settings: dict[str, Any]
) -> None:
    folder = shapes.build("qwen2", tmp_path / "model")
    base = tmp_path / "base.gguf"
    convert_model(folder, base)
    shapes.write_adapter(shapes.load(folder), tmp_path / "peft", **settings)
    with pytest.raises(InvalidRequest, match=f"`{setting}`.*Train a plain LoRA") as caught:
        convert_adapter(tmp_path / "peft", base, tmp_path / "out.gguf")
    assert caught.value.reason == "UNSUPPORTED_ADAPTER"


@pytest.mark.parametrize(
    "settings",
    [
        {"layers_to_transform": [1], "target_modules": ["q_proj", "down_proj"], "strength": 0.15},
        {"exclude_modules": ["o_proj"]},
        {"target_modules": r".*layers\.2\.self_attn\.(k|v)_proj", "strength": 0.15},
        {"init_lora_weights": "orthogonal", "lora_dropout": 0.3},
    ],
    ids=["one layer", "all but one", "an expression", "another start"],
)
def test_where_the_lora_is_makes_no_difference(
    checkpoint: Path, exact: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    tokens, model = shapes.prompt(), shapes.load(checkpoint)
    plain = shapes.logits(model, tokens)
    adapted = shapes.write_adapter(model, tmp_path / "peft", **settings)
    expected = shapes.logits(adapted, tokens)
    assert np.abs(expected - plain).max() > 5 * EXACT, "the adapter must matter"
    convert_adapter(tmp_path / "peft", exact, tmp_path / "adapter.gguf")
    with reference(exact) as llama:
        llama.use_adapter(tmp_path / "adapter.gguf")
        assert np.abs(llama.logits(tokens) - expected).max() < EXACT


def test_an_adapter_of_another_base_is_refused(adapter: Path, tmp_path: Path) -> None:
    from tests.tiny import build_hugging_face_folder

    folder = build_hugging_face_folder(tmp_path / "wider", hidden=64)
    convert_model(folder, tmp_path / "wider.gguf")
    with pytest.raises(InvalidRequest, match=r"q_proj.*In .*wider\.gguf it is"):
        convert_adapter(adapter, tmp_path / "wider.gguf", tmp_path / "out.gguf")


def test_layers_that_the_base_lacks_are_refused(adapter: Path, tmp_path: Path) -> None:
    from tests.tiny import build_hugging_face_folder

    folder = build_hugging_face_folder(tmp_path / "flat", layers=5)
    convert_model(folder, tmp_path / "flat.gguf")
    with pytest.raises(InvalidRequest, match=r"layers\.5\..* has no place"):
        convert_adapter(adapter, tmp_path / "flat.gguf", tmp_path / "out.gguf")


@pytest.mark.filterwarnings("ignore")  # PEFT warns of tied weights, rightly
def test_an_adapter_on_the_tied_head_is_refused(
    tiny_folder: Path, tiny_base: Path, tmp_path: Path
) -> None:
    shapes.write_adapter(
        shapes.load(tiny_folder), tmp_path / "peft", target_modules=["lm_head", "q_proj"]
    )
    with pytest.raises(InvalidRequest, match="output matrix"):
        convert_adapter(tmp_path / "peft", tiny_base, tmp_path / "out.gguf")


def test_missing_files_are_named(copied: Path, tiny_base: Path, tmp_path: Path) -> None:
    (copied / "adapter_model.safetensors").unlink()
    with pytest.raises(NotFound, match=r"adapter_model\.safetensors is missing"):
        convert_adapter(copied, tiny_base, tmp_path / "out.gguf")
    (copied / "adapter_config.json").unlink()
    with pytest.raises(NotFound, match=r"adapter_config\.json is missing"):
        convert_adapter(copied, tiny_base, tmp_path / "out.gguf")


# --- folders from elsewhere


def edited(folder: Path, change: Callable[[dict[str, Any]], object], dtype: str = "") -> None:
    """Rewrites the weights, of which ``change`` gets the tensors."""
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    if dtype:
        tensors = {name: tensor.to(getattr(torch, dtype)) for name, tensor in tensors.items()}
    save_file(tensors, folder / WEIGHTS)


def nothing(tensors: dict[str, Any]) -> None:
    """Leaves the tensors as they are."""


WEIGHTS = "adapter_model.safetensors"
Q = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_weights_of_each_type_are_those_of_peft(
    copied: Path, tiny_folder: Path, tiny_base_f32: Path, tmp_path: Path, dtype: str
) -> None:
    edited(copied, nothing, dtype)
    adapted = shapes.read_adapter(shapes.load(tiny_folder), copied)
    tokens = shapes.prompt()
    conversion = convert_adapter(copied, tiny_base_f32, tmp_path / "adapter.gguf")
    assert (conversion.rank, conversion.alpha, conversion.warnings) == (8, 16, ())
    assert conversion.trained_on == str(tiny_folder)
    assert conversion.targets == (
        *("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"),
    )
    with reference(tiny_base_f32) as llama:
        llama.use_adapter(tmp_path / "adapter.gguf")
        assert np.abs(llama.logits(tokens) - shapes.logits(adapted, tokens)).max() < EXACT


def renamed(tensors: dict[str, Any]) -> None:
    for matrix in "AB":
        name = f"base_model.model.transformer.h.0.attn.c_attn.lora_{matrix}.weight"
        tensors[name] = tensors.pop(Q.format(matrix))


def widened(tensors: dict[str, Any]) -> None:
    tensors[Q.format("A")] = tensors[Q.format("A")].repeat(1, 2)


def flattened(tensors: dict[str, Any]) -> None:
    tensors[Q.format("A")] = tensors[Q.format("A")].sum()


def of_the_vocabulary(tensors: dict[str, Any]) -> None:
    tensors["base_model.model.model.embed_tokens.weight"] = tensors[Q.format("A")].clone()


def of_a_model_that_sees(tensors: dict[str, Any]) -> None:
    for name in list(tensors):
        tensors[name.replace(".layers.", ".language_model.layers.")] = tensors.pop(name)


def poisoned(tensors: dict[str, Any]) -> None:
    tensors[Q.format("B")][3, 2] = float("inf")


@pytest.mark.parametrize(
    ("change", "named", "why", "fix"),
    [
        (renamed, "c_attn.* has no place", "no LoRA matrix", "on q_proj, k_proj, .*, down_proj"),
        (lambda tensors: tensors.pop(Q.format("B")), "not a pair", "two matrices", "on q_proj"),
        (widened, "is adapted by", "the rank is 8", "base model that the adapter was trained on"),
        (flattened, r"is adapted by .* x \(\)", "the rank is 8", "base model that the adapter"),
        (of_the_vocabulary, "embed_tokens.* has no place", "of the vocabulary", "on q_proj"),
        (of_a_model_that_sees, "has no place", "sees pictures", "`nanofleet adapter merge`"),
        (poisoned, "q_proj.lora_B.weight holds NaN or infinity", "diverged", "earlier checkpoint"),
        (lambda tensors: tensors.clear(), "it has no tensors", "", "Save it again after training"),
    ],
)
def test_tensors_that_are_no_lora_of_the_base_are_refused(
    copied: Path,
    tiny_base: Path,
    tmp_path: Path,
    change: Callable[[dict[str, Any]], object],
    named: str,
    why: str,
    fix: str,
) -> None:
    edited(copied, change)
    with pytest.raises(InvalidRequest, match=named) as caught:
        convert_adapter(copied, tiny_base, tmp_path / "out.gguf")
    assert re.search(why, caught.value.why)
    assert re.search(fix, caught.value.fix)
    assert not (tmp_path / "out.gguf").exists()


def test_numbers_of_another_type_are_refused(copied: Path, tiny_base: Path, tmp_path: Path) -> None:
    edited(copied, nothing, "float64")
    with pytest.raises(InvalidRequest, match=r"stored as F64.*F32, F16, BF16.*Save it in one"):
        convert_adapter(copied, tiny_base, tmp_path / "out.gguf")


def pickled(path: Path) -> None:
    path.rename(path.with_name("adapter_model.bin"))


def linked_away(path: Path) -> None:
    elsewhere = path.parent.parent / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nowhere/at/all")


def piped(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def made_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "kind", "said"),
    [
        (lambda path: path.write_bytes(b"PK\x03\x04 torch"), InvalidRequest, "no safetensors file"),
        (lambda path: path.write_bytes(b""), InvalidRequest, "no safetensors file"),
        (
            lambda path: path.write_bytes(path.read_bytes()[:100]),
            InvalidRequest,
            "longer than the file: it was cut off.*Download it again",
        ),
        (
            lambda path: path.write_bytes(path.read_bytes()[:-4]),
            InvalidRequest,
            "was cut off.*Download it again",
        ),
        (pickled, NotFound, "There is adapter_model.bin: pickles can run code.*save_pretrained"),
        (linked_away, InvalidRequest, "link that leads out of its folder.*Put a copy"),
        (dangling, InvalidRequest, "link that leads out of its folder.*/nowhere/at/all"),
        (piped, InvalidRequest, "is no regular file.*save_pretrained"),
        (made_a_folder, InvalidRequest, "is no regular file.*save_pretrained"),
    ],
    ids=[
        *("another kind", "empty", "cut header", "cut data", "a pickle", "a link", "a dead link"),
        *("a pipe", "a folder"),
    ],
)
def test_files_that_are_none_of_an_adapter_are_refused(
    copied: Path,
    tiny_folder: Path,
    tiny_base: Path,
    tmp_path: Path,
    damage: Callable[[Path], object],
    kind: type[Exception],
    said: str,
) -> None:
    damage(copied / WEIGHTS)
    with pytest.raises(kind, match=said):
        convert_adapter(copied, tiny_base, tmp_path / "out")
    with pytest.raises(kind, match=said):
        merge_adapter(copied, tiny_folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_links_of_the_hubs_cache_are_followed(
    copied: Path, tiny_base: Path, tmp_path: Path
) -> None:
    repository = tmp_path / "models--ada--persona"
    revision = repository / "snapshots" / ("3f" * 20)
    revision.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for name in (WEIGHTS, "adapter_config.json"):
        (copied / name).rename(repository / "blobs" / name)
        (revision / name).symlink_to(f"../../blobs/{name}")
    convert_adapter(revision, tiny_base, tmp_path / "out.gguf")
    (revision / WEIGHTS).unlink()
    (revision / WEIGHTS).symlink_to(tiny_base)
    with pytest.raises(InvalidRequest, match="leads out of its folder"):
        convert_adapter(revision, tiny_base, tmp_path / "again.gguf")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"r": 0}, "rank 0 with alpha 16 changes nothing.*above 0"),
        ({"lora_alpha": 0}, "rank 8 with alpha 0 changes nothing.*above 0"),
        ({"lora_alpha": float("nan")}, "which no float32 holds.*save it again"),
        ({"r": "8"}, "`r` is '8', not a whole number.*save it again"),
        ({"r": 4}, "and the rank is 4"),
        ({"peft_type": None}, "`peft_type` is missing.*save it again"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    copied: Path, tiny_base: Path, tmp_path: Path, settings: dict[str, object], said: str
) -> None:
    configure(copied, settings)
    with pytest.raises(InvalidRequest, match=said):
        convert_adapter(copied, tiny_base, tmp_path / "out.gguf")


def test_settings_of_a_later_peft_are_named(copied: Path, tiny_base: Path, tmp_path: Path) -> None:
    configure(copied, {"use_foolora": True, "bar_config": {}, "gate": None})
    (warning,) = convert_adapter(copied, tiny_base, tmp_path / "out.gguf").warnings
    assert "settings that are not known here: use_foolora." in warning


def test_there_has_to_be_a_folder(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"no folder .*nowhere.*adapter_config.json and"):
        convert_adapter(tmp_path / "nowhere", tiny_base, tmp_path / "out.gguf")
