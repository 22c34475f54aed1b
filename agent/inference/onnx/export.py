"""The base in ONNX Runtime's form: a folder that is made once, on the device, from the GGUF file.

    <cache>/<key>/decoder.onnx    the graph, norms and biases
                  weights.bin     the matrices (see packing.py), as large as the base and 6 % more

It is no artifact: it follows from the base and can be made again at any time, so one is kept, that
of the base that was opened last. The folder appears whole or not at all. Making it takes a pass
over the file and no more memory than a slab; the onnx package is loaded for that, and only then.
"""

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import onnxruntime

from agent.inference.onnx.packing import pack, packed_bytes
from agent.model.configuration import EMBEDDING, HEAD, Configuration
from agent.model.tensors import Tensors
from artifacts import durable, headroom
from artifacts.base_model import BaseModel
from artifacts.persisting import Point

GRAPH, WEIGHTS = "decoder.onnx", "weights.bin"
# Another one whenever the files would be made differently.
_FORMAT = 1
# Journals and checkpoints need the disk, too.
_RESERVE_BYTES = 256 << 20


def exported(base: BaseModel, configuration: Configuration, tensors: Tensors, cache: Path) -> Path:
    """The folder for this base below ``cache``, made if need be. Raises DiskFull, or InvalidRequest
    for tensors of a type that cannot be packed."""
    folder = durable.make_folder(cache) / _key(base)
    if not folder.is_dir():
        for other in cache.iterdir():
            shutil.rmtree(other)
        matrices = _matrices(base, configuration, tensors)
        needed_bytes = sum(packed_bytes(tensors, name) for name in matrices)
        headroom.check(cache, needed_bytes, headroom.free_bytes(cache), _RESERVE_BYTES)
        with headroom.naming_disk_faults(cache):
            _make(folder, configuration, tensors, matrices)
    return folder


def looks_further(version: str) -> int:
    """By how many tokens this version's sliding window is too long. 1.23, the last one for the
    Python of JetPack 6, does not count the token itself."""
    return int(tuple(int(part) for part in version.split(".")[:2]) < (1, 24))


def _key(base: BaseModel) -> str:
    """Of the file as it is: a stored artifact never changes, and its path has its digest."""
    status = base.path.stat()
    file = (str(base.path.resolve()), status.st_size, status.st_mtime_ns)
    facts = [_FORMAT, looks_further(onnxruntime.__version__), *file]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _matrices(base: BaseModel, configuration: Configuration, tensors: Tensors) -> list[str]:
    """Those that are multiplied: the embedding is, where it is the output matrix as well."""
    specs = configuration.family.tensors(configuration.size, head=HEAD in base.tensors)
    names = [spec.target for spec in specs if len(spec.shape) == 2]
    return [name for name in names if name != EMBEDDING or HEAD not in tensors]


def _make(
    folder: Path, configuration: Configuration, tensors: Tensors, matrices: list[str]
) -> None:
    fresh = Path(tempfile.mkdtemp(prefix=".new.", dir=folder.parent))
    try:
        _write(fresh, configuration, tensors, matrices)
        durable.publish(fresh, folder, Point.GRAPH_EXPORTED)
    except BaseException:
        # As large as a model: not even a failure may leave it.
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def _write(
    folder: Path, configuration: Configuration, tensors: Tensors, matrices: list[str]
) -> None:
    from agent.inference.onnx.graph import Builder

    with (folder / WEIGHTS).open("wb") as file:
        packed = {name: pack(tensors, name, file) for name in matrices}
        file.flush()
        with Point.GRAPH_PART:
            os.fsync(file.fileno())
    specs = configuration.family.tensors(configuration.size, head=False)
    vectors = {s.target: tensors.vector(s.target) for s in specs if len(s.shape) == 1}
    further = looks_further(onnxruntime.__version__)
    model = Builder(configuration, vectors, packed, WEIGHTS, further).build()
    durable.write_bytes(folder / GRAPH, model.SerializeToString(), Point.GRAPH_PART)
