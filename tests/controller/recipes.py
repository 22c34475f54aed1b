"""Jobs that tests submit."""

from pathlib import Path

from controller import JobFile, parse_job


def job(name: str, dataset: Path, **train: object) -> JobFile:
    recipe = {
        "base": "tiny",
        "dataset": str(dataset),
        "steps": 2,
        "accumulation": 2,
        "sequence_length": 64,
        **train,
    }
    return parse_job({"name": name, "device": "kitchen", "train": recipe})
