"""Adapters from another machine: checked, packed as a job's are, and what they compute."""

import asyncio
import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from artifacts import adapter, base_model, digest
from artifacts.digest import Digest
from artifacts.manifest import AdapterManifest
from controller import CatalogueEntry, Fleet, SyncFleet, merge_adapter
from controller.catalogue import ADAPTER
from protos.errors import AlreadyExists, Busy, InvalidRequest, NotFound, WrongBase
from tests.agent.jobs.samples import TRAINING
from tests.artifacts.convert import shapes
from tests.llama import reference

ZEROS = Digest("sha256:" + "0" * 64)


@pytest.fixture(scope="module")
def saved(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA of the tiny model as PEFT saves it."""
    folder = tmp_path_factory.mktemp("saved") / "my-adapter"
    shapes.write_adapter(
        shapes.load(tiny_folder), folder, use_rslora=True, target_modules=["q_proj", "down_proj"]
    )
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """The same, to change."""
    return Path(shutil.copytree(saved, tmp_path / "my-adapter"))


@pytest.fixture
async def based(empty_fleet: Fleet, tiny_base_f32: Path) -> Fleet:
    """A fleet that has the tiny model."""
    await empty_fleet.import_model(tiny_base_f32, name="tiny-gemma")
    return empty_fleet


def unpacked(fleet: Fleet, entry: CatalogueEntry, folder: Path) -> Path:
    adapter.unpack(fleet.path_of(entry.digest), folder)
    return folder


def manifest_of(fleet: Fleet, entry: CatalogueEntry) -> AdapterManifest:
    return adapter.read_manifest(fleet.path_of(entry.digest))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


async def test_an_imported_adapter_computes_what_peft_computes(
    based: Fleet, folder: Path, tiny_folder: Path, tiny_base_f32: Path, tmp_path: Path
) -> None:
    tokens, model = shapes.prompt(), shapes.load(tiny_folder)
    plain = shapes.logits(model, tokens)
    expected = shapes.logits(shapes.read_adapter(model, folder), tokens)
    assert np.abs(expected - plain).max() > 5 * shapes.EXACT, "the adapter must matter"

    entry = await based.import_adapter(folder, base="tiny-gemma")
    files = unpacked(based, entry, tmp_path / "files")
    with reference(tiny_base_f32) as llama:
        llama.use_adapter(files / adapter.GGUF)
        assert np.abs(llama.logits(tokens) - expected).max() < shapes.EXACT
    again = shapes.logits(shapes.read_adapter(shapes.load(tiny_folder), files), tokens)
    assert (again == expected).all(), "PEFT's own files travel as they are"


async def test_it_is_an_artifact_like_any_other(
    based: Fleet, folder: Path, tiny_base_f32: Path
) -> None:
    os.utime(folder / adapter.SAFETENSORS, ns=(1, 1_700_000_000_000_000_000))
    entry = await based.import_adapter(folder, base="tiny-gemma")
    assert (entry.name, entry.kind) == ("my-adapter", ADAPTER)
    assert based.resolve("my-adapter") == entry
    base = base_model.read(tiny_base_f32)
    assert manifest_of(based, entry) == AdapterManifest(
        name="my-adapter",
        base_digest=digest.of_file(tiny_base_f32),
        tokenizer_digest=base.tokenizer_digest,
        source_digest=base.source_digest,
        rank=8,
        alpha=16.0,
        targets=("down_proj", "q_proj"),
        created_utc_ns=1_700_000_000_000_000_000,
        imported_from="my-adapter",
    )
    assert entry.details["imported_from"] == "my-adapter"
    assert (entry.details["job_id"], entry.details["final_loss"]) == (None, None)
    assert entry.details["warnings"] == []
    assert not list((based.home / "scratch").iterdir())


async def test_the_same_folder_is_the_same_artifact(based: Fleet, folder: Path) -> None:
    first = await based.import_adapter(folder, base="tiny-gemma")
    assert await based.import_adapter(folder, base="tiny-gemma") == first
    assert based.artifacts(ADAPTER) == [first]


async def test_a_name_moves_from_import_to_import(based: Fleet, folder: Path) -> None:
    first = await based.import_adapter(folder, base="tiny-gemma", name="mine")
    edit(folder / "adapter_config.json", lora_alpha=4)
    second = await based.import_adapter(folder, base="tiny-gemma", name="mine")
    assert based.resolve("mine") == second
    assert based.resolve(first.digest).name == ""


@pytest.mark.parametrize(
    ("said", "warns"),
    [
        ("google/tiny-gemma", False),
        ("/home/ada/Tiny_Gemma", False),
        ("models--google--tiny-gemma/snapshots/3f3f", False),
        (None, False),
        ("google/tiny-gemma-pt", True),
    ],
)
async def test_a_base_of_another_name_is_a_warning(
    based: Fleet, folder: Path, said: str | None, warns: bool
) -> None:
    edit(folder / "adapter_config.json", base_model_name_or_path=said)
    entry = await based.import_adapter(folder, base="tiny-gemma")
    warnings = entry.details["warnings"]
    assert isinstance(warnings, list)
    assert len(warnings) == warns
    assert all("trained on 'google/tiny-gemma-pt', and is imported for tiny" in w for w in warnings)


async def test_what_is_refused_leaves_nothing(based: Fleet, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no model 'gemma'"):
        await based.import_adapter(folder, base="gemma")
    with pytest.raises(NotFound, match=r"no folder .*nowhere"):
        await based.import_adapter(tmp_path / "nowhere", base="tiny-gemma")
    with pytest.raises(InvalidRequest, match="cannot name an artifact"):
        await based.import_adapter(folder, base="tiny-gemma", name="no name")
    edit(folder / "adapter_config.json", use_dora=True)
    with pytest.raises(InvalidRequest, match=r"DoRA .*lost unsaid.*plain LoRA") as caught:
        await based.import_adapter(folder, base="tiny-gemma")
    assert caught.value.reason == "UNSUPPORTED_ADAPTER"
    assert str(folder) in caught.value.what, "the folder that was named, no copy"
    assert based.artifacts(ADAPTER) == []
    assert not list((based.home / "scratch").iterdir())


async def test_a_folder_that_somebody_writes_into_is_refused(based: Fleet, folder: Path) -> None:
    importing = asyncio.create_task(based.import_adapter(folder, base="tiny-gemma"))
    touched_ns = 0
    while not importing.done():
        touched_ns += 1
        os.utime(folder / adapter.SAFETENSORS, ns=(0, touched_ns))
        await asyncio.sleep(0)
    with pytest.raises(Busy, match=r"changed while it was read.*when nothing writes"):
        await importing
    assert based.artifacts(ADAPTER) == []


async def test_a_base_of_another_shape_is_refused(
    based: Fleet, folder: Path, tmp_path: Path
) -> None:
    qwen = await asyncio.to_thread(shapes.build, "qwen2", tmp_path / "qwen")
    await based.import_model(qwen)
    with pytest.raises(InvalidRequest, match=r"In .* it is .*base model that the adapter was"):
        await based.import_adapter(folder, base="qwen")


async def test_the_record_of_a_training_is_kept(
    based: Fleet, folder: Path, tiny_base_f32: Path
) -> None:
    """A folder that `job result --to` made, in another fleet, on another type of the base."""
    base = base_model.read(tiny_base_f32)
    manifest = AdapterManifest(
        name="persona",
        base_digest=ZEROS,
        tokenizer_digest=base.tokenizer_digest,
        source_digest=base.source_digest,
        rank=8,
        alpha=16.0,
        targets=("down_proj", "q_proj"),
        created_utc_ns=1,
        training=TRAINING,
    )
    write(folder / adapter.MANIFEST, manifest.to_json())
    entry = await based.import_adapter(folder, base="tiny-gemma")
    assert manifest_of(based, entry) == dataclasses.replace(
        manifest, name="my-adapter", base_digest=digest.of_file(tiny_base_f32)
    )
    assert entry.details["final_loss"] == TRAINING.final_loss
    # No job of this fleet: another import may have the name.
    assert await based.import_adapter(folder, base="tiny-gemma") == entry

    write(folder / adapter.MANIFEST, dataclasses.replace(manifest, source_digest=ZEROS).to_json())
    with pytest.raises(WrongBase, match="was made of the original weights 000000000000"):
        await based.import_adapter(folder, base="tiny-gemma")
    write(folder / adapter.MANIFEST, b"{}")
    with pytest.raises(InvalidRequest, match=r"nanofleet.json has no format_version"):
        await based.import_adapter(folder, base="tiny-gemma")


async def test_it_is_merged_into_the_original_weights(
    based: Fleet, folder: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    entry = await based.import_adapter(folder, base="tiny-gemma")
    await merge_adapter(based.path_of(entry.digest), tiny_folder, tmp_path / "merged")
    await merge_adapter(folder, tiny_folder, tmp_path / "by-hand")
    merged, by_hand = (
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("merged", "by-hand")
    )
    assert merged == by_hand
    other = await asyncio.to_thread(shapes.build, "gemma3", tmp_path / "other", seed=2)
    with pytest.raises(WrongBase, match="does not fit the model in"):
        await merge_adapter(based.path_of(entry.digest), other, tmp_path / "wrong")


async def test_the_name_of_a_jobs_result_is_refused(
    fleet: Fleet, dataset: Path, folder: Path
) -> None:
    from controller import parse_job

    train = {"base": "tiny", "dataset": str(dataset), "steps": 1, "accumulation": 1}
    job = await fleet.submit(parse_job({"name": "taken", "device": "kitchen", "train": train}))
    await fleet.wait(job.id, 60)
    result = await fleet.fetch_result(job.id)
    with pytest.raises(
        AlreadyExists, match=r"the result of job taken.*Choose another name"
    ) as said:
        await fleet.import_adapter(folder, base="tiny", name="taken")
    assert said.value.field == "name"
    assert fleet.resolve("taken") == result
    await fleet.import_adapter(folder, base="tiny", name="free")
    await fleet.remove_artifact("free")


async def test_a_request_brings_the_adapter_to_the_device(fleet: Fleet, folder: Path) -> None:
    await fleet.push("tiny", ["kitchen"])
    entry = await fleet.import_adapter(folder, base="tiny", name="brought")

    async def held() -> bool:
        return entry.digest in {one.digest for one in await fleet.remote_artifacts("kitchen")}

    assert not await held()
    answers = fleet.generate(
        "kitchen", base="tiny", adapter="brought", prompt="Hello", max_tokens=2
    )
    last = [response async for response in answers][-1]
    assert last.usage.completion_tokens <= 2
    assert await held()
    await fleet.unload_model("kitchen")
    await fleet.remove_artifact(entry.digest, device="kitchen")
    embedded = fleet.embed("kitchen", ["Hello"], base="tiny", adapter=entry.digest)
    assert [response.index async for response in embedded] == [0]
    assert await held()
    await fleet.remove_artifact("brought")


async def test_an_adapter_that_nobody_has_is_said_to_be_missing(fleet: Fleet) -> None:
    await fleet.push("tiny", ["kitchen"])
    with pytest.raises(NotFound, match=r"000000000000 is not on this device.*Push it"):
        async for _ in fleet.generate("kitchen", base="tiny", adapter=ZEROS, prompt="Hello"):
            pass


def test_the_synchronous_fleet_imports_too(tmp_path: Path, folder: Path, tiny_base: Path) -> None:
    with SyncFleet.create(tmp_path / "home", name="lab") as fleet:
        fleet.import_model(tiny_base, name="tiny")
        entry = fleet.import_adapter(folder, base="tiny", name="mine")
        assert fleet.resolve("mine") == entry
        assert adapter.read_manifest(fleet.path_of("adapter/mine")).rank == 8
