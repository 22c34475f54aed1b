"""How people write values in a job file, and what all of its sections have in common."""

import re
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kKMG]i?)?B")
_SIZE_UNITS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9}
_SIZE_UNITS |= {"ki": 1 << 10, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}


def number(value: object) -> object:
    """A number as people write it: YAML 1.1 reads 2e-5, which has no point, as text."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return float(value) if type(value) is int else value


def fraction(value: object) -> object:
    """``10%`` or 0.1."""
    if isinstance(value, str) and value.endswith("%"):
        percent = number(value[:-1].strip())
        return percent / 100 if isinstance(percent, float) else value
    return number(value)


def size_bytes(value: object) -> object:
    """``1.5 GB`` or ``900 MiB``, in bytes. A bare number is refused: of what?"""
    found = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise ValueError("a size is written with its unit, as 1.5 GB or 900 MB")
    return round(float(found[1]) * _SIZE_UNITS[found[2] or ""])


def as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


Real = Annotated[float, BeforeValidator(number), Field(allow_inf_nan=False)]
Fraction = Annotated[float, BeforeValidator(fraction), Field(ge=0, le=1, allow_inf_nan=False)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
