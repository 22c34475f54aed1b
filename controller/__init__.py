"""The controller: a fleet of devices, from Python.

    from controller import Fleet

    async with Fleet.open() as fleet:
        job = await fleet.submit(load_job_file(Path("finetune.yaml")))

Names are imported on first use: ``import controller`` costs under 10 ms, and a command that
only prints its help loads neither gRPC nor a database.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from controller.enrolment_server import EnrolmentServer
    from controller.fleet import Fleet
    from controller.jobfile import JobFile, load_job_file, parse_job
    from controller.merging import merge_adapter
    from controller.records import (
        ApiKey,
        CatalogueEntry,
        DeviceRecord,
        DeviceStatus,
        ImportProgress,
        JobRecord,
        NewKey,
        PlanStep,
        Sighting,
        Token,
        Transfer,
        TransferProgress,
    )
    from controller.sync import SyncFleet

__all__ = [
    "ApiKey",
    "CatalogueEntry",
    "DeviceRecord",
    "DeviceStatus",
    "EnrolmentServer",
    "Fleet",
    "ImportProgress",
    "JobFile",
    "JobRecord",
    "NewKey",
    "PlanStep",
    "Sighting",
    "SyncFleet",
    "Token",
    "Transfer",
    "TransferProgress",
    "load_job_file",
    "merge_adapter",
    "parse_job",
]

_ELSEWHERE = {
    "EnrolmentServer": "controller.enrolment_server",
    "Fleet": "controller.fleet",
    "JobFile": "controller.jobfile",
    "SyncFleet": "controller.sync",
    "load_job_file": "controller.jobfile",
    "merge_adapter": "controller.merging",
    "parse_job": "controller.jobfile",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'controller' has no attribute {name!r}")
    module = importlib.import_module(_ELSEWHERE.get(name, "controller.records"))
    return getattr(module, name)


def __dir__() -> list[str]:
    return __all__
