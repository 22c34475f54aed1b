"""What llama.cpp would compute otherwise than the configuration says is refused, and named."""

import json
import shutil
from pathlib import Path

import pytest

from artifacts.convert.config import read_config
from protos.errors import InvalidRequest, NotFound

GLOBAL = "full_attention"
LOCAL = "sliding_attention"


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        ({"model_type": "mamba"}, r"'mamba' are not supported.*gemma3_text, qwen2, qwen3, llama"),
        ({"model_type": "gemma3"}, "`text_config` is missing"),
        ({"model_type": None}, "`model_type` is missing"),
        ({"layer_types": [LOCAL, GLOBAL] * 3}, "every sixth layer global"),
        ({"layer_types": [LOCAL] * 6}, "every sixth layer global"),
        ({"sliding_window_pattern": 4, "layer_types": None}, "`sliding_window_pattern` 4"),
        ({"query_pre_attn_scalar": 64}, "`query_pre_attn_scalar` 64.*head_dim, 32"),
        ({"final_logit_softcapping": 30.0}, "`final_logit_softcapping`"),
        ({"hidden_activation": "relu"}, "activation 'relu'"),
        ({"use_bidirectional_attention": True}, "both directions"),
        ({"quantization_config": {"bits": 4}}, "quantised already"),
        ({"num_hidden_layers": "six"}, "`num_hidden_layers` is 'six', not a whole number"),
        ({"hidden_size": True}, "`hidden_size` is True"),
        ({"num_attention_heads": 0}, "without heads"),
        ({"num_attention_heads": 3, "num_key_value_heads": 2}, "3 heads cannot share 2"),
        ({"rms_norm_eps": None}, "`rms_norm_eps` is missing"),
        (
            {"rope_parameters": {GLOBAL: {"rope_type": "yarn"}, LOCAL: {}}},
            "rope type 'yarn'",
        ),
        (
            {"rope_parameters": {GLOBAL: {"rope_type": "llama3"}, LOCAL: {}}},
            "rope type 'llama3'",
        ),
        (
            {"rope_parameters": {GLOBAL: {}, LOCAL: {"rope_type": "linear", "factor": 2}}},
            "scaled rope in sliding layers",
        ),
        (
            {"rope_parameters": None, "rope_scaling": {"type": "dynamic", "factor": 2}},
            "rope type 'dynamic'",
        ),
        ({"rope_parameters": [1]}, "is a list, not a dict"),
        ({"rope_theta": 10_000.0}, r"contradicts itself: `rope_theta` is 10000, and 1e\+06 in"),
    ],
)
def test_refused(tiny_folder: Path, tmp_path: Path, edit: dict[str, object], named: str) -> None:
    _write(tiny_folder, tmp_path, edit)
    with pytest.raises(InvalidRequest, match=named) as caught:
        read_config(tmp_path)
    assert str(tmp_path / "config.json") in str(caught.value)


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        ({"use_sliding_window": True}, "a sliding window"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "full attention in all"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "a partial rotation"),
    ],
)
@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"], indirect=True)
def test_refused_of_the_families_with_full_attention(
    checkpoint: Path, tmp_path: Path, edit: dict[str, object], named: str
) -> None:
    _write(checkpoint, tmp_path, edit)
    with pytest.raises(InvalidRequest, match=named):
        read_config(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '"text"', "[" * 100_000, "\xff\xfe"])
def test_a_file_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidRequest, match=r"config\.json"):
        read_config(tmp_path)


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"config\.json is missing"):
        read_config(tmp_path)


def test_weights_of_other_shapes_than_the_configuration_are_refused(
    tiny_folder: Path, tmp_path: Path
) -> None:
    from artifacts.convert import convert_model

    folder = Path(shutil.copytree(tiny_folder, tmp_path / "copy"))
    _write(tiny_folder, folder, {"intermediate_size": 512})
    with pytest.raises(InvalidRequest, match=r"has shape \(256, 128\).*means \(512, 128\)"):
        convert_model(folder, tmp_path / "m.gguf")


def _write(source: Path, folder: Path, edit: dict[str, object]) -> None:
    config = json.loads((source / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | edit))
