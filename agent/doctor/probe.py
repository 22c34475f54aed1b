"""Asking a child process what must not be loaded here: engines and certificates.

The daemon stays small because it never imports torch, llama_cpp or cryptography. Whether they work
is found out in a process of their own, which also survives that native code, built for another
processor, dies with a signal instead of an exception.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from protos.errors import WorkerFailed

# Importing torch from a cold flash card takes most of a minute.
LONGEST_S = 180.0

# Each prints its version after a first real operation: a library may import and not compute.
ENGINES = {
    "llama": "import llama_cpp; llama_cpp.llama_backend_init(); print(llama_cpp.__version__)",
    "torch": "import torch; (torch.ones(4, 4) @ torch.ones(4, 4)).sum().item();"
    " print(torch.__version__)",
}
_DATES = """
import sys
from cryptography import x509
certificate = x509.load_pem_x509_certificate(open(sys.argv[1], "rb").read())
print(int(certificate.not_valid_before_utc.timestamp()))
print(int(certificate.not_valid_after_utc.timestamp()))
"""
# Touches every page: what is only promised is no memory. The kernel's first choice to end.
_ALLOCATION = """
import contextlib, mmap, pathlib, sys
with contextlib.suppress(OSError):
    pathlib.Path("/proc/self/oom_score_adj").write_text("1000")
size = int(sys.argv[1])
buffer = mmap.mmap(-1, size)
for offset in range(0, size, mmap.PAGESIZE):
    buffer[offset] = 1
buffer.close()
where = "by the processor"
try:
    import torch
except ImportError:
    torch = None
if torch is not None and torch.cuda.is_available():
    torch.ones(size, dtype=torch.uint8, device="cuda").sum().item()
    where += " and by the GPU"
print(where)
"""
_GOLDEN = """
import sys
from agent.inference import engines, proof
from protos.errors import WorkerFailed
try:
    proof.prove(sys.argv[1], engines.imported(sys.argv[1]), None)
except WorkerFailed as error:
    sys.exit(str(error))
"""
# Where the very code that runs here is found.
_CODE = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Validity:
    """Of a certificate, in seconds of UTC."""

    not_before_s: int
    not_after_s: int


def engine_version(name: str, python: str = sys.executable) -> str:
    """The version of a working engine; raises WorkerFailed that says what its import said."""
    return _run(python, ENGINES[name], f"The engine {name} does not work")


def certificate_validity(path: Path, python: str = sys.executable) -> Validity:
    """Of the first certificate in a PEM file; raises WorkerFailed when it is none."""
    before, after = _run(python, _DATES, f"{path} cannot be read", str(path)).split()
    return Validity(int(before), int(after))


def allocation(size_bytes: int, python: str = sys.executable) -> str:
    """By whom a buffer of this size could be taken; raises WorkerFailed when it could not."""
    return _run(python, _ALLOCATION, "A large buffer cannot be had", str(size_bytes))


def golden_vector(engine: str, python: str = sys.executable) -> None:
    """Raises WorkerFailed when the engine answers otherwise than it should."""
    _run(python, _GOLDEN, "The golden vector failed", engine)


def _run(python: str, program: str, what: str, *arguments: str) -> str:
    try:
        done = subprocess.run(
            [python, "-c", program, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LONGEST_S,
            check=False,
            stdin=subprocess.DEVNULL,
            cwd=_CODE,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise WorkerFailed(f"{what}.", why=f"{error}.") from error
    if done.returncode < 0:
        raise WorkerFailed(f"{what}.", why=f"Its process died of signal {-done.returncode}.")
    if done.returncode > 0:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise WorkerFailed(f"{what}.", why=f"{said[-1].rstrip('.')}.")
    return done.stdout.strip()
