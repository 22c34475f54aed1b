"""Generates the Python code of the contract: ``python -m protos.generate [--check]``.

protoc runs from the repository root, so that the generated modules import each other as
``protos.nanofleet.v1``; the gRPC package stays ``nanofleet.v1``. The result is committed: devices
need no protoc, and the sdist builds offline. ``--check`` generates into a temporary folder, writes
nothing, and exits with 1 when a committed file is not what protoc makes of the .proto files.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONTRACT = Path("protos/nanofleet/v1")
GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")


def generate(into: Path) -> None:
    """Writes the modules and typed stubs of every .proto file below ``into``."""
    sources = [str(path.relative_to(ROOT)) for path in sorted((ROOT / CONTRACT).glob("*.proto"))]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I."]
    command += [f"--{kind}_out={into}" for kind in ("python", "grpc_python")]
    # The plugins lie beside this interpreter; an environment need not be activated to be used.
    for kind in ("mypy", "mypy_grpc"):
        plugin = Path(sys.executable).with_name(f"protoc-gen-{kind}")
        command += [f"--plugin=protoc-gen-{kind}={plugin}", f"--{kind}_out=quiet:{into}"]
    subprocess.run([*command, *sources], cwd=ROOT, check=True)


def stale(fresh: Path) -> list[str]:
    """The generated files that differ between ``fresh`` and the repository, by name."""

    def read(root: Path) -> dict[str, bytes]:
        folder = root / CONTRACT
        return {path.name: path.read_bytes() for glob in GENERATED for path in folder.glob(glob)}

    committed, wanted = read(ROOT), read(fresh)
    return sorted(
        name for name in committed.keys() | wanted.keys() if committed.get(name) != wanted.get(name)
    )


def main() -> int:
    if "--check" not in sys.argv[1:]:
        generate(ROOT)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        names = stale(Path(folder))
    if names:
        print(f"The generated code is not current: {', '.join(names)}. Run `make protos`.")
    return 1 if names else 0


if __name__ == "__main__":
    sys.exit(main())
