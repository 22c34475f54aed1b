"""Base models: real files as the gguf package writes them, and headers that lie."""

import contextlib
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifacts import base_model, digest, ggml_types, gguf_header
from artifacts.base_model import SOURCE_KEY, ArrayInfo, TensorInfo
from protos.errors import InvalidRequest, NotFound

Q8 = gguf.GGMLQuantizationType.Q8_0


def write(
    path: Path,
    *,
    architecture: str = "gemma3",
    name: str = "Tiny Gemma",
    tokens: int = 96,
    adjust: Callable[[gguf.GGUFWriter], None] = lambda writer: None,
) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(name)
    writer.add_context_length(2048)
    writer.add_embedding_length(64)
    writer.add_block_count(1)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"token {number}" for number in range(tokens)])
    writer.add_token_scores([0.5] * tokens)
    writer.add_add_bos_token(True)
    writer.add_chat_template("{{ messages }}")
    adjust(writer)
    rng = np.random.default_rng(0)
    embedding = rng.standard_normal((96, 64), dtype=np.float32)
    writer.add_tensor("token_embd.weight", gguf.quants.quantize(embedding, Q8), raw_dtype=Q8)
    writer.add_tensor("output_norm.weight", np.ones(64, np.float32))
    writer.add_tensor("blk.0.attn_q.weight", embedding[:32].astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "tiny.gguf")


def refusal(path: Path) -> str:
    with pytest.raises(InvalidRequest) as caught:
        base_model.read(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_what_the_header_says(path: Path) -> None:
    model = base_model.read(path)
    assert (model.path, model.architecture, model.name) == (path, "gemma3", "Tiny Gemma")
    assert (model.context_length, model.embedding_length, model.block_count) == (2048, 64, 1)
    assert model.vocabulary_size == 96
    assert model.parameter_count == 96 * 64 + 64 + 32 * 64
    assert model.file_type == "Q8_0"
    assert model.chat_template == "{{ messages }}"
    assert model.size_bytes == path.stat().st_size
    assert model.metadata["tokenizer.ggml.add_bos_token"] is True
    assert model.metadata["gemma3.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-6)


def test_the_original_weights_are_named_or_not(path: Path, tmp_path: Path) -> None:
    assert base_model.read(path).source_digest is None
    named = digest.of_bytes(b"weights")
    sound, wrong = (
        base_model.read(
            write(
                tmp_path / f"{number}.gguf",
                adjust=lambda w, said=said: w.add_string(SOURCE_KEY, said),
            )
        )
        for number, said in enumerate((named, "gemma"))
    )
    assert sound.source_digest == named
    assert sound.is_sibling_of(sound)
    assert not base_model.read(path).is_sibling_of(base_model.read(path))
    with pytest.raises(
        InvalidRequest, match=r"1\.gguf is .* Its nanofleet\.source_digest: 'gemma'"
    ):
        _ = wrong.source_digest


def test_it_reads_what_the_gguf_package_reads(path: Path) -> None:
    model, reference = base_model.read(path), gguf.GGUFReader(path)
    assert list(model.tensors) == [tensor.name for tensor in reference.tensors]
    for tensor in reference.tensors:
        assert model.tensors[tensor.name] == TensorInfo(
            tensor.name,
            tuple(int(size) for size in tensor.shape[::-1]),
            tensor.tensor_type.name,
            tensor.data_offset,
            tensor.n_bytes,
        )
    assert set(model.metadata) == {key for key in reference.fields if not key.startswith("GGUF.")}


def test_tensors_lie_where_they_are_said_to(path: Path) -> None:
    tensor = base_model.read(path).tensors["output_norm.weight"]
    with path.open("rb") as file:
        file.seek(tensor.offset)
        assert np.frombuffer(file.read(tensor.size_bytes), np.float32).tolist() == [1.0] * 64


def test_long_arrays_stay_in_the_file(path: Path) -> None:
    metadata = base_model.read(path).metadata
    tokens, scores = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.scores"]
    assert isinstance(tokens, ArrayInfo)
    assert isinstance(scores, ArrayInfo)
    assert (tokens.count, tokens.type) == (96, "string")
    assert (scores.count, scores.type) == (96, "float32")
    content = path.read_bytes()
    assert content[tokens.offset : tokens.offset + 15] == struct.pack("<Q", 7) + b"token 0"
    assert content[scores.offset : scores.offset + 4] == struct.pack("<f", 0.5)


def test_short_arrays_are_values(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf", tokens=64, adjust=lambda w: w.add_array("x", [-1, 2]))
    model = base_model.read(path)
    assert model.metadata["x"] == (-1, 2)
    assert model.metadata["tokenizer.ggml.tokens"][63] == "token 63"
    assert model.vocabulary_size == 64


def test_the_tokenizer_digest_is_of_the_tokenizer_alone(path: Path, tmp_path: Path) -> None:
    digest = base_model.read(path).tokenizer_digest
    renamed = write(tmp_path / "renamed.gguf", name="Another", architecture="llama")
    assert base_model.read(renamed).tokenizer_digest == digest
    for adjust in (
        lambda w: w.add_bos_token_id(1),
        lambda w: w.add_token_merges(["a b"]),
        lambda w: w.add_key_value("tokenizer.x", 7, gguf.GGUFValueType.UINT32),
    ):
        other = base_model.read(write(tmp_path / "other.gguf", adjust=adjust))
        assert other.tokenizer_digest != digest
    assert base_model.read(write(tmp_path / "more.gguf", tokens=97)).tokenizer_digest != digest


def test_the_sizes_of_all_types_are_those_of_ggml() -> None:
    for kind in ggml_types.TYPES:
        reference = gguf.GGMLQuantizationType(kind.number)
        assert reference.name == kind.name
        assert gguf.GGML_QUANT_SIZES[reference] == (kind.block_elements, kind.block_bytes)


def test_a_large_vocabulary_is_read_quickly_and_in_little_memory(tmp_path: Path) -> None:
    path = write(
        tmp_path / "large.gguf",
        tokens=262_144,
        adjust=lambda w: w.add_token_merges([f"a b{number}" for number in range(262_144)]),
    )
    tracemalloc.start()
    model = base_model.read(path)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert model.vocabulary_size == 262_144
    assert peak_bytes < 2 * path.stat().st_size


def test_a_model_without_a_name_is_called_as_its_file(tmp_path: Path) -> None:
    assert base_model.read(write(tmp_path / "gemma-3.gguf", name="")).name == "gemma-3"


def test_a_missing_key_is_named_when_it_is_asked_for(tmp_path: Path) -> None:
    model = base_model.read(write(tmp_path / "m.gguf"))
    odd = base_model.read(write(tmp_path / "o.gguf", adjust=lambda w: w.add_array("gemma3.x", [1])))
    assert odd.block_count == model.block_count
    stripped = path_without(tmp_path / "m.gguf", b"gemma3.block_count", b"gemma3.block_cunot")
    with pytest.raises(InvalidRequest, match=r"no usable gemma3\.block_count: None"):
        _ = base_model.read(stripped).block_count


def path_without(path: Path, old: bytes, new: bytes) -> Path:
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    return path


# --- what is no base model


def test_what_is_no_gguf_file_is_said_so(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    with pytest.raises(NotFound, match=r"There is no file .*model\.gguf"):
        base_model.read(path)
    path.write_bytes(b"")
    assert "It is empty." in refusal(path)
    path.write_bytes(b'{"__metadata__"')
    assert "It starts with b'{\"__', not with b'GGUF'." in refusal(path)
    path.write_bytes(b"GG")
    refusal(path)
    path.unlink()
    path.mkdir()
    assert "no regular file" in refusal(path)
    path.rmdir()
    os.mkfifo(path)
    assert "no regular file" in refusal(path)


def test_an_adapter_or_a_vocabulary_is_no_base_model(tmp_path: Path) -> None:
    lora = write(tmp_path / "lora.gguf", adjust=lambda w: w.add_type("adapter"))
    assert "Its header says that it is: adapter." in refusal(lora)
    vocabulary = tmp_path / "vocabulary.gguf"
    vocabulary.write_bytes(header(0, [string("general.architecture") + u32(8) + string("llama")]))
    assert "It has no tensors" in refusal(vocabulary)
    vocabulary.write_bytes(header(0, []))
    assert "does not name an architecture" in refusal(vocabulary)


def test_a_part_of_a_split_model_is_refused_with_how_to_join_it(tmp_path: Path) -> None:
    part = write(tmp_path / "part.gguf", adjust=lambda w: w.add_uint16("split.count", 3))
    said = refusal(part)
    assert "one of the 3 files of a split model" in said
    assert "llama-gguf-split --merge" in said
    whole = write(tmp_path / "whole.gguf", adjust=lambda w: w.add_uint16("split.count", 1))
    assert base_model.read(whole).architecture == "gemma3"


def test_every_cut_is_noticed(path: Path) -> None:
    content = path.read_bytes()
    data_start = base_model.read(path).tensors["token_embd.weight"].offset
    cuts = [*range(4, data_start, 13), data_start, len(content) - 64]
    for cut in cuts:
        path.write_bytes(content[:cut])
        assert "It is truncated" in refusal(path), cut
    path.write_bytes(content[: len(content) // 2 + data_start // 2])
    assert "the file at" in refusal(path)


# --- headers that lie: every count is a claim


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def string(text: str | bytes) -> bytes:
    content = text.encode() if isinstance(text, str) else text
    return u64(len(content)) + content


def header(tensors: int, entries: list[bytes], *, version: int = 3) -> bytes:
    return b"GGUF" + u32(version) + u64(tensors) + u64(len(entries)) + b"".join(entries)


def tensor(
    name: str, shape: tuple[int, ...], *, kind: int = 0, offset: int = 0, dimensions: int = 0
) -> bytes:
    sizes = b"".join(u64(size) for size in shape)
    return string(name) + u32(dimensions or len(shape)) + sizes + u32(kind) + u64(offset)


HUGE = 1 << 63
LIES = {
    "It is big-endian": b"GGUF" + struct.pack(">I", 3) + bytes(64),
    "Its GGUF version is 1;": header(0, [], version=1),
    "Its GGUF version is 99;": header(0, [], version=99),
    f"It claims {HUGE} tensors; 65536 is the limit": b"GGUF" + u32(3) + u64(HUGE) + u64(0),
    f"It claims {HUGE} metadata keys": b"GGUF" + u32(3) + u64(0) + u64(HUGE),
    "A text (metadata key 1 of 1) claims": header(0, [u64(HUGE) + b"key"]),
    "A text (metadata key 1 of 1) is not UTF-8": header(0, [string(b"\xff\xfe") + u32(0)]),
    "A text (k) is not UTF-8": header(0, [string("k") + u32(8) + string(b"\xff")]),
    "has the metadata key 'k' twice": header(0, [string("k") + u32(0) + b"\0"] * 2),
    "The value of 'k' has the unknown type 77": header(0, [string("k") + u32(77)]),
    "The value of 'k' has the unknown type 9": header(0, [string("k") + u32(9) + u32(9) + u64(1)]),
    "within the k.": header(0, [string("k") + u32(9) + u32(4) + u64(HUGE)]),
    "within the strings.": header(0, [string("strings") + u32(9) + u32(8) + u64(1 << 40)]),
    "within the lengths.": header(
        0, [string("lengths") + u32(9) + u32(8) + u64(100) + u64(HUGE) * 100]
    ),
    "Its alignment is 0": header(0, [string("general.alignment") + u32(4) + u32(0)]),
    "Its alignment is 'x'": header(0, [string("general.alignment") + u32(8) + string("x")]),
    "Its alignment is 4294967295": header(
        0, [string("general.alignment") + u32(4) + u32(0xFFFFFFFF)]
    ),
    "'t' claims 0 dimensions": header(1, []) + tensor("t", ()),
    "'t' claims 4294967295 dimensions": header(1, []) + tensor("t", (), dimensions=0xFFFFFFFF),
    "'t' has the unknown type 4": header(1, []) + tensor("t", (1,), kind=4),
    "'t' of type F32 cannot have shape (0,)": header(1, []) + tensor("t", (0,)),
    "'t' of type Q8_0 cannot have shape (2, 31)": header(1, []) + tensor("t", (31, 2), kind=8),
    "'t' is not aligned to 32 bytes": header(1, []) + tensor("t", (1,), offset=4),
    "the tensor 't' ends at byte": header(1, []) + tensor("t", (1 << 62, 1 << 62)),
    "has the tensor 't' twice": header(2, []) + tensor("t", (1,)) * 2 + bytes(64),
}


@pytest.mark.parametrize("text", LIES)
def test_a_lie_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "lie.gguf"
    path.write_bytes(LIES[text])
    assert text in refusal(path)


def test_an_endless_header_takes_bounded_time_and_memory(tmp_path: Path) -> None:
    """Sparse zeros: a billion empty strings, in a file that takes no room on the disk."""
    path = tmp_path / "endless.gguf"
    path.write_bytes(header(0, [string("k") + u32(9) + u32(8) + u64((1 << 33) // 8)]))
    os.truncate(path, 9 << 30)
    assert "Its header would be larger than" in refusal(path)
    # Under the limit, it is walked to its end: eight million steps, and nothing kept.
    path.write_bytes(header(0, [string("k") + u32(9) + u32(8) + u64(8_000_000)]))
    os.truncate(path, 9 << 30)
    assert "does not name an architecture" in refusal(path)


def test_skipping_an_array_keeps_nothing(tmp_path: Path) -> None:
    path = tmp_path / "long.gguf"
    path.write_bytes(header(0, [string("k") + u32(9) + u32(8) + u64(100_000)]))
    os.truncate(path, 9 << 30)
    tracemalloc.start()
    refusal(path)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 1 << 20


@settings(max_examples=300)
@given(st.binary(max_size=4_096))
def test_rubbish_behind_the_magic_number_is_refused(tmp_path: Path, rubbish: bytes) -> None:
    path = tmp_path / "rubbish.gguf"
    path.write_bytes(b"GGUF" + u32(3) + rubbish)
    refusal(path)


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_header_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever it says then, all tensors lie in the file."""
    sound = tmp_path / "sound.gguf"
    content = bytearray((sound if sound.exists() else write(sound)).read_bytes())
    header_bytes = base_model.read(sound).tensors["token_embd.weight"].offset
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(4, header_bytes - 8))
        patch = data.draw(st.sampled_from([u64(HUGE), u64(0), u32(9), u32(8), b"\xff", b"\x01"]))
        content[at : at + len(patch)] = patch
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(content)
    with contextlib.suppress(InvalidRequest):
        for item in base_model.read(damaged).tensors.values():
            assert 0 < item.offset + item.size_bytes <= len(content)
            assert len(item.shape) <= gguf_header.MAX_DIMENSIONS
