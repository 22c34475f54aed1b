"""From a job file to what a device needs: names to digests, the spec, the artifacts.

All that can be known to be wrong is found here, before the first byte is sent.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from artifacts import prompts, template
from artifacts.base_model import QINT8
from controller import lineage
from controller.catalogue import ADAPTER, BASE_MODEL, DATASET, Catalogue
from controller.placement import INFERENCE_ENGINE, TRAINING_ENGINE
from controller.records import CatalogueEntry, StageData
from protos.errors import InternalError, InvalidDataset, InvalidRequest, NotFound, WrongBase
from protos.nanofleet.v1 import job_pb2

if TYPE_CHECKING:
    from controller.generate_section import Generate
    from controller.jobfile import JobFile

_FILE_ENDINGS = (".jsonl", ".json", ".zst")
# ``job/teach``: the dataset that the newest job of this name has made.
_OF_JOB = "job/"
# Of a dataset whose lines need no answers.
_PROMPTS = "prompts"


@dataclass(frozen=True, slots=True)
class Prepared:
    """``needed``: the artifacts, the base model first."""

    spec: job_pb2.JobSpec
    needed: tuple[CatalogueEntry, ...]


@dataclass(frozen=True, slots=True)
class Preparation:
    """``result_of`` brings home what a job has made."""

    catalogue: Catalogue
    result_of: Callable[[str], Awaitable[CatalogueEntry]]

    async def prepared(self, job: "JobFile") -> Prepared:
        """Raises what is wrong with the job file, with its data, or with both together."""
        if job.generate is not None:
            return await self._generation(job, job.generate)
        return await self._training(job)

    async def _training(self, job: "JobFile") -> Prepared:
        assert job.train is not None
        base = self.catalogue.resolve(job.train.base, BASE_MODEL)
        _check_window(job.train.sequence_length, base)
        datasets = {name: await self._dataset(job, name) for name in dict.fromkeys(job.datasets)}
        of_stages = [datasets[name] for name in job.datasets]
        for name, entry in datasets.items():
            _check_answers(name, entry)
        spec = job.to_spec(
            base_digest=base.digest,
            data=[StageData(each.digest, _whole_number(each, "samples")) for each in of_stages],
            instruct=base.details.get("instruct") is True,
        )
        return Prepared(spec, _once(base, *of_stages))

    async def _generation(self, job: "JobFile", asked: "Generate") -> Prepared:
        base = self.catalogue.resolve(asked.base, BASE_MODEL)
        _check_servable(base)
        adapter = self.catalogue.resolve(asked.adapter, ADAPTER) if asked.adapter else None
        if adapter is not None:
            _check_fits(adapter, base)
        dataset = await self._dataset(job, asked.dataset)
        path, name = self.catalogue.parcel(dataset).path, Path(asked.dataset).name
        report = await asyncio.to_thread(prompts.check, path, name=name)
        spec = asked.to_spec(
            base_digest=base.digest,
            adapter_digest=adapter.digest if adapter else "",
            dataset_digest=dataset.digest,
            dataset_name=name,
            report=report,
            instruct=base.details.get("instruct") is True,
            window=_whole_number(base, "context_length"),
        )
        needed = template.named_in(spec)
        await asyncio.to_thread(prompts.check_fields, path, report, needed, name=name)
        return Prepared(
            job.around(generate=spec),
            _once(base, *([adapter] if adapter else []), dataset),
        )

    async def _dataset(self, job: "JobFile", reference: str) -> CatalogueEntry:
        """The file beside the job file, what a job has made, or what the catalogue has under the
        name."""
        path = job.path_of(reference)
        if path.is_file():
            return await self.catalogue.add(path, DATASET, "", as_prompts=job.generate is not None)
        if reference.endswith(_FILE_ENDINGS) or reference.startswith((".", "~", "/")):
            raise NotFound(
                f"There is no dataset file {path}.",
                why="`dataset` is a path, counted from the job file's folder.",
                fix="Check the path, or name a dataset of the catalogue.",
                field="dataset",
            )
        if not reference.startswith(_OF_JOB):
            return self.catalogue.resolve(reference, DATASET)
        made = await self.result_of(reference.removeprefix(_OF_JOB))
        if made.kind != DATASET:
            raise InvalidRequest(
                f"{reference} has made an adapter, not a dataset.",
                fix="Name a job that generates.",
                field="dataset",
            )
        return made


def _once(*entries: CatalogueEntry) -> tuple[CatalogueEntry, ...]:
    return tuple({entry.digest: entry for entry in entries}.values())


def engine_of(spec: job_pb2.JobSpec) -> str:
    """What a device must have installed for the job."""
    return INFERENCE_ENGINE if spec.HasField("generate") else TRAINING_ENGINE


def capabilities_of(spec: job_pb2.JobSpec, base: CatalogueEntry) -> tuple[str, ...]:
    """What a device's agent must know for the job, as in Device.capabilities."""
    of_base = f"base:gguf/{str(base.details.get('file_type', '')).lower()}"
    limits = ("jobs:limits",) if spec.HasField("limits") else ()
    if spec.HasField("generate"):
        return ("generate:jsonl+zstd", of_base, *limits)
    return ("train:lora", "dataset:jsonl+zstd", of_base, *limits)


def _check_window(sequence_length: int, base: CatalogueEntry) -> None:
    """A device would say the same, after everything has been pushed to it."""
    window = base.details.get("context_length")
    if isinstance(window, int) and sequence_length > window:
        raise InvalidRequest(
            f"`train.sequence_length` is {sequence_length:,};"
            f" the base model {base.name or base.digest} reads {window:,} tokens.",
            fix=f"Set it to {window} or less.",
            field="train.sequence_length",
        )


def _check_answers(name: str, entry: CatalogueEntry) -> None:
    if entry.details.get("shape") == _PROMPTS:
        raise InvalidDataset(
            f"The dataset {name} has prompts without answers: there is nothing to learn from it.",
            fix="Have a model answer it first: a job file with `generate`.",
            field="train.dataset",
        )


def _check_servable(base: CatalogueEntry) -> None:
    if base.details.get("file_type") == QINT8:
        raise InvalidRequest(
            f"The base model {base.name or base.digest} cannot generate.",
            why="Its weights are qint8, which is for training: llama.cpp has no such type.",
            fix="Name a q8_0 of the same folder; adapters of this one fit it, too.",
            reason="UNSUPPORTED_FEATURE",
            field="generate.base",
        )


def _check_fits(adapter: CatalogueEntry, base: CatalogueEntry) -> None:
    """A device has the last word; it compares the tokenizers, too."""
    if adapter.details.get("base_digest") != base.digest and not lineage.is_sibling(adapter, base):
        raise WrongBase(
            f"The adapter {adapter.name or adapter.digest} does not fit the base model"
            f" {base.name or base.digest}.",
            why="It was trained on another one.",
            fix="Name the base that it was trained on, or train it again on this one.",
            field="generate.adapter",
        )


def _whole_number(entry: CatalogueEntry, key: str) -> int:
    value = entry.details.get(key)
    if not isinstance(value, int):
        raise InternalError(f"The catalogue has no {key} of {entry.name or entry.digest}.")
    return value
