"""An adapter from another machine: a PEFT folder as the artifact that a job makes of its own.

The checks and the GGUF LoRA are the converter's (artifacts/convert/adapter.py), in a process of its
own; here are the manifest and the archive. Nothing but the base says what the adapter fits: it was
chosen by a person, and PEFT's own note of it is compared by name only. A folder that nanofleet made
(`job result --to`), in this fleet or another, keeps the record of its training.

The same folder for the same base under the same name gives the same bytes: what is dated is the
weights file.
"""

import asyncio
import contextlib
import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePath

from artifacts import adapter, base_model, headroom, hub_cache, regular_file
from artifacts.base_model import BaseModel
from artifacts.digest import Digest
from artifacts.manifest import AdapterManifest, check_sibling
from controller import importing
from controller.records import CatalogueEntry
from protos.errors import Busy

_PEFT_FILES = (adapter.CONFIG, adapter.SAFETENSORS)
_MAX_MANIFEST_BYTES = 1 << 20


async def pack(
    folder: Path, base: CatalogueEntry, base_path: Path, name: str, scratch: Path
) -> tuple[Path, list[str]]:
    """The archive, in ``scratch``, and warnings. Raises InvalidRequest and NotFound for a folder
    that is no plain LoRA of the base, WrongBase when its manifest says so, DiskFull."""
    before = await asyncio.to_thread(_versions, folder)
    files = scratch / "files"
    files.mkdir()
    arguments = ("adapter", str(folder), str(base_path), str(files / adapter.GGUF))
    found = await importing.in_child(arguments, None)
    return await asyncio.to_thread(_packed, folder, base, base_path, name, files, found, before)


def _packed(
    folder: Path,
    base: CatalogueEntry,
    base_path: Path,
    name: str,
    files: Path,
    found: Mapping[str, object],
    before: list[tuple[int, int, int]],
) -> tuple[Path, list[str]]:
    model, archive = base_model.read(base_path), files.with_name("adapter.tar")
    manifest = _manifest(folder, Digest(base.digest), model, name, found)
    with headroom.naming_disk_faults(files):
        (files / adapter.MANIFEST).write_bytes(manifest.to_json())
        for file_name in _PEFT_FILES:
            shutil.copyfile(folder / file_name, files / file_name)
    if _versions(folder) != before:
        raise Busy(
            f"{folder} changed while it was read.", fix="Import it when nothing writes there."
        )
    adapter.pack(files, archive)
    warnings = [str(each) for each in _listed(found["warnings"])]
    return archive, warnings + _doubts(str(found["trained_on"]), base, model)


def _versions(folder: Path) -> list[tuple[int, int, int]]:
    """What changes with the files. Those that cannot be read are for the converter to name."""
    found = []
    for name in _PEFT_FILES:
        with contextlib.suppress(OSError):
            status = (folder / name).stat()
            found.append((status.st_ino, status.st_size, status.st_mtime_ns))
    return found


def _manifest(
    folder: Path, base: Digest, model: BaseModel, name: str, found: Mapping[str, object]
) -> AdapterManifest:
    if (folder / adapter.MANIFEST).is_file():
        with regular_file.open_to_read(folder / adapter.MANIFEST) as file:
            known = AdapterManifest.from_json(file.read(_MAX_MANIFEST_BYTES))
        if known.base_digest != base:
            check_sibling(known, base, model)
        return dataclasses.replace(known, name=name, base_digest=base)
    rank, alpha = found["rank"], found["alpha"]
    assert isinstance(rank, int)
    assert isinstance(alpha, float)
    return AdapterManifest(
        name=name,
        base_digest=base,
        tokenizer_digest=model.tokenizer_digest,
        source_digest=model.source_digest,
        rank=rank,
        alpha=alpha,
        targets=tuple(str(each) for each in _listed(found["targets"])),
        created_utc_ns=(folder / adapter.SAFETENSORS).stat().st_mtime_ns,
        imported_from=_readable(hub_cache.name_of(folder.resolve())),
    )


def _listed(value: object) -> list[object]:
    assert isinstance(value, list)
    return value


def _readable(name: str) -> str:
    """A file name may be any bytes."""
    return name.encode(errors="replace").decode()


def _doubts(trained_on: str, base: CatalogueEntry, model: BaseModel) -> list[str]:
    """Of an adapter whose shapes fit, and which names another base."""
    said = _folded(hub_cache.name_of(PurePath(trained_on)))
    if not said or said in (_folded(base.name), _folded(model.name)):
        return []
    return [
        f"The adapter says that it was trained on {trained_on!r}, and is imported for"
        f" {base.name or base.digest}. The shapes are the same; with other weights it would only"
        " talk worse."
    ]


def _folded(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())
