"""What `import controller` gives, and costs."""

import subprocess
import sys

import controller


def test_every_name_can_be_imported_and_they_are_sorted() -> None:
    assert controller.__all__ == sorted(controller.__all__)
    for name in controller.__all__:
        assert getattr(controller, name).__name__ == name
    assert not hasattr(controller, "nonesuch")


def loaded_by(script: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{script}; import sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def test_importing_it_loads_nothing() -> None:
    assert not loaded_by("import controller") & {"grpc", "sqlalchemy", "pydantic", "cryptography"}


def test_opening_a_fleet_loads_neither_alembic_nor_cryptography_nor_pydantic() -> None:
    loaded = loaded_by("from controller import Fleet")
    assert not loaded & {"alembic", "cryptography", "pydantic", "numpy", "torch", "agent"}
