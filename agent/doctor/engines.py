"""The doctor's checks of what computes: the processor, the engines, and whether they are right."""

import re
from collections.abc import Callable

from agent.doctor import probe
from agent.doctor.findings import Found, Site, fail, ok, warn
from jetson.board import identify
from jetson.profiles import profile_of
from jetson.sysfs import read_bytes
from protos.errors import WorkerFailed

_FEATURES = re.compile(rb"^(?:Features|flags)\s*:\s*(.+)$", re.MULTILINE)
# What makes products of 8-bit numbers, or of floating point, fast: the kernel's word and ours.
_TOLD = {
    "asimddp": "int8 dot products",
    "i8mm": "int8 matrices",
    "asimdhp": "half precision",
    "bf16": "bfloat16",
    "sve": "SVE",
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_bf16": "bfloat16",
    "amx_bf16": "AMX",
}


def features(site: Site) -> Found:
    """An engine that was built for another processor dies of an illegal instruction."""
    found = _FEATURES.search(read_bytes(site.root / "proc/cpuinfo") or b"")
    if found is None:
        return warn("/proc/cpuinfo does not tell")
    present = set(found[1].decode(errors="replace").split())
    profile = profile_of(identify(site.root).module)
    missing = profile.cpu_features - present if profile else None
    if profile and missing:
        return fail(f"{', '.join(sorted(missing))} is missing, which builds for {profile.name} use")
    told = [words for feature, words in _TOLD.items() if feature in present]
    if told:
        return ok(", ".join(dict.fromkeys(told)))
    return ok("no int8 dot products and no half precision: products take their time here")


def engine(name: str) -> Callable[[Site], Found]:
    def look(site: Site) -> Found:
        try:
            return ok(probe.engine_version(name, site.python))
        except WorkerFailed as error:
            return fail(str(error))

    return look


def golden_vector(site: Site) -> Found:
    """The engine of the settings repeats recorded answers of a tiny model."""
    try:
        probe.golden_vector(site.engine, site.python)
    except WorkerFailed as error:
        return fail(str(error))
    return ok(f"{site.engine} gives the recorded answers")
