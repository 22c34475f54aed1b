"""Adapters: what was packed comes out the same, and nothing else ever does."""

import contextlib
import dataclasses
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifacts import adapter, digest, manifest
from artifacts.adapter import AdapterManifest
from artifacts.base_model import SOURCE_KEY, BaseModel
from artifacts.digest import Digest
from artifacts.manifest import TrainingRecord
from protos.errors import AlreadyExists, InvalidRequest, NotFound, WrongBase

BASE, OTHER = digest.of_bytes(b"base"), digest.of_bytes(b"other")
TRAINING = TrainingRecord(
    job_id="01JCQ4Z7M3W8T2B5N6P9R0S1V4",
    dataset_digest=digest.of_bytes(b"dataset"),
    recipe={"steps": 120, "learning_rate": 2e-5},
    first_loss=3.25,
    final_loss=0.75,
    steps=120,
    trained_tokens=9_000,
    energy_j=None,
    agent_version="0.1.0",
)
MANIFEST = AdapterManifest(
    name="persona",
    base_digest=BASE,
    tokenizer_digest=digest.of_bytes(b"tokenizer"),
    rank=8,
    alpha=16.0,
    targets=("q_proj", "v_proj"),
    created_utc_ns=1_700_000_000_000_000_000,
    training=TRAINING,
)
IMPORTED = dataclasses.replace(MANIFEST, training=None, imported_from="my-adapter")
NAMES = ["adapter.gguf", "adapter_config.json", "adapter_model.safetensors", "nanofleet.json"]


def safetensors(data: bytes) -> bytes:
    header = json.dumps(
        {"a": {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}}
    )
    return len(header).to_bytes(8, "little") + header.encode() + data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "result"
    folder.mkdir()
    (folder / "adapter.gguf").write_bytes(b"GGUF" + os.urandom(3_000_000))
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (folder / "adapter_model.safetensors").write_bytes(safetensors(bytes(512)))
    (folder / "nanofleet.json").write_bytes(MANIFEST.to_json())
    (folder / "README.md").write_text("PEFT writes one; it stays out.")
    return folder


@pytest.fixture
def packed(folder: Path, tmp_path: Path) -> Path:
    adapter.pack(folder, tmp_path / "adapter.tar")
    return tmp_path / "adapter.tar"


def test_packing_and_unpacking_gives_the_same_files(packed: Path, folder: Path, tmp_path) -> None:
    adapter.unpack(packed, tmp_path / "cache" / "one")
    unpacked = sorted((tmp_path / "cache" / "one").iterdir())
    assert [path.name for path in unpacked] == NAMES
    for path in unpacked:
        assert path.read_bytes() == (folder / path.name).read_bytes()
        assert path.stat().st_mode & 0o777 == 0o644
    assert adapter.read_manifest(packed) == MANIFEST
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["one"]


def test_the_same_files_give_the_same_bytes(packed: Path, folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        os.utime(path, (1, 1))
        path.chmod(0o600)
    adapter.pack(folder, tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == packed.read_bytes()
    adapter.unpack(packed, tmp_path / "out")
    adapter.pack(tmp_path / "out", tmp_path / "third.tar")
    assert (tmp_path / "third.tar").read_bytes() == packed.read_bytes()


def test_any_tar_reads_it(packed: Path, tmp_path: Path) -> None:
    with tarfile.open(packed) as archive:
        assert archive.getnames() == NAMES
        assert {(m.mode, m.mtime, m.uid, m.gid) for m in archive} == {(0o644, 0, 0, 0)}
    listed = subprocess.run(["tar", "-tf", packed], capture_output=True, text=True, check=True)
    assert (listed.stdout.split(), listed.stderr) == (NAMES, "")


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(NotFound, match=name):
        adapter.pack(folder, tmp_path / "adapter.tar")
    assert not (tmp_path / "adapter.tar").exists()


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("adapter.gguf", b"ggml", "It is not a GGUF file"),
        ("adapter_config.json", b"[]", "It is not a JSON object"),
        ("adapter_config.json", b"[" * 100_000, "It is not a JSON object"),
        ("adapter_model.safetensors", b"\x80\x04\x95pickle", "pickles are never loaded"),
        ("adapter_model.safetensors", b"PK\x03\x04torch.save", "pickles are never loaded"),
        ("adapter_model.safetensors", b"", "pickles are never loaded"),
        ("nanofleet.json", b"", "is not valid JSON"),
        ("nanofleet.json", b"7", "is not a JSON object"),
        ("nanofleet.json", bytes(2 << 20), "too large for an adapter: 2.0 MiB"),
    ],
)
def test_content_that_is_not_what_its_name_says_stays_out(
    folder: Path, tmp_path: Path, name: str, content: bytes, text: str
) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(InvalidRequest, match=text):
        adapter.pack(folder, tmp_path / "adapter.tar")
    assert not (tmp_path / "adapter.tar").exists()


def test_an_existing_folder_is_left_alone(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    adapter.unpack(packed, tmp_path / "empty")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(AlreadyExists, match="exists and is not empty"):
        adapter.unpack(packed, tmp_path / "empty")
    assert sorted(tmp_path.iterdir()) == before


# --- archives that somebody else made


def archive_of(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.USTAR_FORMAT) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=form) as archive:
        for member, content in members:
            member.size = len(content) if member.isreg() else 0
            archive.addfile(member, io.BytesIO(content))
    return written.getvalue()


def plain(name: str, content: bytes, **attributes: object) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    for attribute, value in attributes.items():
        setattr(member, attribute, value)
    return member, content


def link(name: str, target: str, kind: bytes) -> tuple[tarfile.TarInfo, bytes]:
    return plain(name, b"", type=kind, linkname=target)


HOSTILE: dict[str, Callable[[], bytes]] = {
    "a path upwards": lambda: archive_of(plain("../adapter.gguf", b"GGUF")),
    "an absolute path": lambda: archive_of(plain("/etc/cron.d/evil", b"* * * * *")),
    "a folder prefix": lambda: archive_of(plain("./adapter.gguf", b"GGUF")),
    "a symlink": lambda: archive_of(link("adapter.gguf", "/etc/shadow", tarfile.SYMTYPE)),
    "a hard link": lambda: archive_of(link("adapter.gguf", "/etc/shadow", tarfile.LNKTYPE)),
    "a device": lambda: archive_of(link("adapter.gguf", "", tarfile.CHRTYPE)),
    "a pipe": lambda: archive_of(link("adapter.gguf", "", tarfile.FIFOTYPE)),
    "a folder": lambda: archive_of(link("adapter.gguf", "", tarfile.DIRTYPE)),
    "a set-uid file": lambda: archive_of(plain("adapter.gguf", b"GGUF", mode=0o4755)),
    "another owner": lambda: archive_of(plain("adapter.gguf", b"GGUF", uid=1000)),
    "a name of another encoding": lambda: archive_of(plain("adapter.gguf\u202e", b"GGUF")),
    "an extended header": lambda: archive_of(
        plain("adapter.gguf", b"GGUF", pax_headers={"path": "../evil"}), form=tarfile.PAX_FORMAT
    ),
    "a long name": lambda: archive_of(plain("a" * 300, b"GGUF"), form=tarfile.GNU_FORMAT),
    "another order": lambda: archive_of(plain("nanofleet.json", MANIFEST.to_json())),
    "nothing": lambda: b"",
    "zeros": lambda: bytes(10_240),
    "a zip": lambda: b"PK\x03\x04" + bytes(1_000),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_write_nothing(tmp_path: Path, name: str) -> None:
    path = tmp_path / "in" / "hostile.tar"
    path.parent.mkdir()
    path.write_bytes(HOSTILE[name]())
    with pytest.raises(InvalidRequest, match=r"hostile\.tar is not an adapter that can be used"):
        adapter.unpack(path, tmp_path / "out" / "adapter")
    with pytest.raises(InvalidRequest):
        adapter.read_manifest(path)
    assert not (tmp_path / "out").exists()


def test_what_tar_makes_of_the_same_files_is_refused(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "hand.tar"
    subprocess.run(["tar", "-cf", path, *NAMES], cwd=folder, check=True)
    with pytest.raises(InvalidRequest, match="Use an adapter as nanofleet packed it"):
        adapter.unpack(path, tmp_path / "out")


@pytest.mark.parametrize("change", ["cut", "longer", "extra member", "huge claim"])
def test_a_changed_archive_is_refused(packed: Path, tmp_path: Path, change: str) -> None:
    content = packed.read_bytes()
    extra = archive_of(plain("extra", b"!"))
    packed.write_bytes(
        {
            "cut": content[:-512],
            "longer": content + bytes(512),
            "extra member": content[:-1024] + extra,
            "huge claim": content[:124] + b"77777777777\0" + content[136:],
        }[change]
    )
    with pytest.raises(InvalidRequest, match="is not an adapter"):
        adapter.unpack(packed, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@settings(max_examples=200)
@given(st.data())
def test_damage_gives_the_same_manifest_or_a_refusal(tmp_path: Path, data: st.DataObject) -> None:
    folder, path = tmp_path / "small", tmp_path / "small.tar"
    folder.mkdir(exist_ok=True)
    (folder / "adapter.gguf").write_bytes(b"GGUF")
    (folder / "adapter_config.json").write_bytes(b"{}")
    (folder / "adapter_model.safetensors").write_bytes(safetensors(b""))
    (folder / "nanofleet.json").write_bytes(MANIFEST.to_json())
    adapter.pack(folder, path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(InvalidRequest):
        adapter.read_manifest(path)


# --- the manifest


def test_a_manifest_survives_json() -> None:
    full = dataclasses.replace(MANIFEST, training=dataclasses.replace(TRAINING, energy_j=812.5))
    for sample in (MANIFEST, full, IMPORTED):
        assert AdapterManifest.from_json(sample.to_json()) == sample
    assert json.loads(MANIFEST.to_json())["format_version"] == manifest.FORMAT_VERSION


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("format_version", 3, "format version 3. This nanofleet reads versions 1 and 2. Update"),
        ("base_digest", "sha256:0", "'sha256:0' is not a digest"),
        ("rank", "8", "has a wrong rank. It must be a whole number"),
        ("rank", True, "has a wrong rank"),
        ("training", 7, "has a wrong training. It must be an object"),
        ("created_utc_ns", -1, "has a wrong created_utc_ns"),
        ("alpha", None, "has a wrong alpha. It must be a number"),
        ("alpha", 10**400, "has a wrong alpha. It must be a finite number"),
        ("targets", "all", "has a wrong targets. It must be a list of texts"),
        ("targets", ["q_proj", 1], "has a wrong targets"),
        ("name", 7, "has a wrong name. It must be a text"),
    ],
)
def test_a_wrong_key_is_named(key: str, value: object, text: str) -> None:
    fields = {**json.loads(MANIFEST.to_json()), key: value}
    with pytest.raises(InvalidRequest) as caught:
        AdapterManifest.from_json(json.dumps(fields).encode())
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("steps", -1, "has a wrong steps"),
        ("final_loss", float("nan"), "has a wrong final_loss. It must be a finite number"),
        ("recipe", [], "has a wrong recipe. It must be an object"),
        ("energy_j", "1 J", "has a wrong energy_j"),
        ("dataset_digest", "sha256:0", "'sha256:0' is not a digest"),
    ],
)
def test_a_wrong_key_of_the_training_record_is_named(key: str, value: object, text: str) -> None:
    fields = json.loads(MANIFEST.to_json())
    fields["training"][key] = value
    with pytest.raises(InvalidRequest) as caught:
        AdapterManifest.from_json(json.dumps(fields).encode())
    assert text in str(caught.value)


@pytest.mark.parametrize(
    "key", json.loads(MANIFEST.to_json()).keys() - {"source_digest", "imported_from"}
)
def test_a_missing_key_is_named(key: str) -> None:
    fields = json.loads(MANIFEST.to_json())
    del fields[key]
    with pytest.raises(InvalidRequest, match=f"nanofleet.json has no {key}"):
        AdapterManifest.from_json(json.dumps(fields).encode())


@pytest.mark.parametrize("key", json.loads(MANIFEST.to_json())["training"])
def test_a_missing_key_of_the_training_record_is_named(key: str) -> None:
    fields = json.loads(MANIFEST.to_json())
    del fields["training"][key]
    with pytest.raises(InvalidRequest, match=f"nanofleet.json has no {key}"):
        AdapterManifest.from_json(json.dumps(fields).encode())


def test_what_no_job_trained_names_its_folder() -> None:
    fields = json.loads(IMPORTED.to_json())
    del fields["imported_from"]
    with pytest.raises(InvalidRequest, match=r"nanofleet.json has no imported_from"):
        AdapterManifest.from_json(json.dumps(fields).encode())


# As a training wrote it before there were imports.
RECORDED = Path(__file__).parent / "data" / "manifest-v1.json"


def test_a_manifest_of_version_1_is_still_read() -> None:
    content = RECORDED.read_bytes()
    assert json.loads(content)["format_version"] == 1
    manifest = AdapterManifest.from_json(content)
    assert (manifest.name, manifest.rank, manifest.alpha) == ("persona", 8, 16.0)
    assert manifest.targets[:2] == ("down_proj", "gate_proj")
    assert (manifest.imported_from, manifest.format_version) == (None, 2)
    training = manifest.training
    assert training is not None
    assert (training.steps, training.trained_tokens, training.energy_j) == (6, 242, None)
    assert training.recipe["stages"][0]["dataset_digest"] == training.dataset_digest  # type: ignore[index, call-overload]
    assert AdapterManifest.from_json(manifest.to_json()) == manifest


def test_keys_of_a_later_version_are_left_alone() -> None:
    fields = {**json.loads(MANIFEST.to_json()), "gate": {"passed": True}}
    assert AdapterManifest.from_json(json.dumps(fields).encode()) == MANIFEST


def test_a_manifest_from_before_sources_says_none() -> None:
    fields = json.loads(MANIFEST.to_json())
    assert fields.pop("source_digest") is None
    assert AdapterManifest.from_json(json.dumps(fields).encode()) == MANIFEST
    known = dataclasses.replace(MANIFEST, source_digest=digest.of_bytes(b"weights"))
    assert AdapterManifest.from_json(known.to_json()) == known
    wrong = json.dumps({**fields, "source_digest": "weights"}).encode()
    with pytest.raises(InvalidRequest, match="'weights' is not a digest"):
        AdapterManifest.from_json(wrong)


WEIGHTS, TOKENIZER = digest.of_bytes(b"weights"), MANIFEST.tokenizer_digest


@pytest.mark.parametrize(
    ("trained_on", "served", "why"),
    [
        (WEIGHTS, (WEIGHTS, TOKENIZER), None),
        (WEIGHTS, (WEIGHTS, OTHER), "the same weights with another tokenizer or chat template."),
        (
            WEIGHTS,
            (OTHER, TOKENIZER),
            f"made of the original weights {WEIGHTS[7:19]}; this one was made of {OTHER[7:19]}.",
        ),
        (WEIGHTS, (None, TOKENIZER), f"It was trained on {BASE[7:19]}."),
        (None, (WEIGHTS, TOKENIZER), f"It was trained on {BASE[7:19]}."),
        (None, (None, TOKENIZER), f"It was trained on {BASE[7:19]}."),
    ],
    ids=["sibling", "tokenizer", "weights", "old base", "old adapter", "both old"],
)
def test_an_adapter_fits_other_files_of_its_model(
    trained_on: Digest | None, served: tuple[Digest | None, Digest], why: str | None
) -> None:
    source, tokenizer = served
    base = BaseModel(
        path=Path("base.gguf"),
        architecture="gemma3",
        name="base",
        metadata={} if source is None else {SOURCE_KEY: source},
        tensors={},
        tokenizer_digest=tokenizer,
        size_bytes=1,
    )
    known = dataclasses.replace(MANIFEST, source_digest=trained_on)
    if why is None:
        manifest.check_sibling(known, OTHER, base)
        return
    with pytest.raises(WrongBase) as caught:
        manifest.check_sibling(known, OTHER, base)
    said = str(caught.value)
    assert said.startswith(f"The adapter 'persona' does not fit the base model {OTHER[7:19]}.")
    assert f"It was trained on {BASE[7:19]}" in said
    assert why in said
