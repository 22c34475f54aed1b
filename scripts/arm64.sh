#!/usr/bin/env bash
# make arm64: the agent on 64-bit Arm, without a board.
#
# A minimal Debian for arm64 is made once (debootstrap, about four minutes, 250 MB below the cache) and run
# by QEMU's user emulation. Into it goes the agent's wheel with what it needs to run, from wheels for
# aarch64 only, so that whatever would have to be compiled on a board is an error here; then the
# tests that need neither torch nor llama.cpp run there, as root, with the emulated processor.
#
#   sudo apt install debootstrap qemu-user-static binfmt-support
#   sudo make arm64                    # or: ARM64_TESTS='tests/jetson -x' sudo -E make arm64
#
# What it proves: packaging, the C libraries' behaviour, byte order and word size of everything that
# is ours and not a kernel of the engines. What it cannot: speed, sensors, the GPU, the boards' kernels.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
cache=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/nanofleet}/arm64
suite=bookworm
# Of that suite: the wheels that are fetched are for it.
guest_python=3.11
root=$cache/$suite
# What QEMU's user mode shows otherwise than a kernel: mapped files count as anonymous memory, and
# /proc/self/stat has no times.
unlike='--deselect=tests/agent/workers/test_residency.py::test_a_mapped_file_counts_as_file_backed
    --deselect=tests/jetson/test_sensors.py::test_process_memory_tells_anonymous_from_mapped
    --deselect=tests/agent/telemetry/test_sampler.py::test_load_is_the_mean_since_the_sample_before
    --deselect=tests/agent/telemetry/test_simulation.py::test_load_becomes_watts_and_then_degrees
    --deselect=tests/agent/telemetry/test_simulation.py::test_recorded_tree_is_replayed_and_left_alone'
# Without what trains or serves: torch and llama.cpp are the engines' own business, and take hours here.
tests=${ARM64_TESTS:-tests/jetson tests/protos tests/artifacts tests/agent
    --ignore=tests/artifacts/convert --ignore=tests/agent/training --ignore=tests/agent/inference
    --ignore=tests/agent/tokens --ignore=tests/agent/memory/test_forecast.py
    --ignore=tests/agent/batch --ignore=tests/agent/test_batch.py --ignore=tests/agent/test_bad_requests.py
    --ignore=tests/agent/test_jobs.py --ignore=tests/agent/test_lineage.py --ignore=tests/agent/test_memory.py
    --ignore=tests/agent/test_out_of_memory.py --ignore=tests/agent/test_rehearsed_jobs.py
    --ignore=tests/agent/test_serving.py --ignore=tests/agent/test_warm_start.py
    --deselect=tests/agent/test_doctor.py::test_device_that_is_well
    --deselect=tests/agent/test_simulated.py::test_a_job_on_a_simulated_board_is_stamped_and_labelled
    --deselect=tests/agent/serving/test_host.py::test_a_load_that_is_given_up_leaves_no_pin
    $unlike}

fail() { echo "arm64: $*" >&2; exit 1; }

[ "$(id -u)" = 0 ] || fail "a foreign root folder takes root to make and to enter. Run: sudo make arm64"
for tool in debootstrap qemu-aarch64-static unshare; do
    command -v "$tool" > /dev/null \
        || fail "$tool is missing. On Debian: apt install debootstrap qemu-user-static binfmt-support"
done

# The kernel hands programs for Arm to QEMU. Inside containers the folder is often not mounted.
formats=/proc/sys/fs/binfmt_misc
[ -e $formats/register ] || mount -t binfmt_misc binfmt_misc $formats \
    || fail "binfmt_misc cannot be mounted here, so programs for Arm cannot be started."
[ -e $formats/qemu-aarch64 ] || update-binfmts --enable qemu-aarch64 \
    || fail "QEMU is not registered for Arm. Reinstall it: apt install --reinstall qemu-user-static"

if [ ! -d "$root" ]; then
    echo "arm64: making a minimal Debian $suite for arm64, once"
    rm -rf "$root.partial"
    # In a namespace of its own: it mounts /proc below the new root.
    unshare --mount debootstrap --arch=arm64 --variant=minbase --include=python3,python3-venv,ca-certificates \
        "$suite" "$root.partial" > "$cache/debootstrap.log" \
        || fail "debootstrap failed; its log is $cache/debootstrap.log"
    mv "$root.partial" "$root"
fi

echo "arm64: building the wheel, fetching what it needs for aarch64"
rm -rf "$root/work"
mkdir -p "$root/work/wheels" "$cache/wheels"
"$python" -m build --wheel --outdir "$root/work/wheels" . > "$cache/build.log" \
    || fail "the wheel cannot be built; the log is $cache/build.log"
# The extras of the daemon, and those of the controller, whose own processes the tests talk to.
"$python" -m pip --quiet --disable-pip-version-check download --dest "$cache/wheels" \
    --only-binary=:all: --python-version "$guest_python" --implementation cp \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 \
    --constraint constraints.txt \
    "$(echo "$root"/work/wheels/*.whl)[agent,controller]" \
    pytest pytest-asyncio pytest-timeout hypothesis jinja2
find "$cache/wheels" -name 'nanofleet-*' -delete
cp "$cache"/wheels/*.whl "$root/work/wheels"

# The tests and what they read, without our packages: those come from the wheel.
git ls-files -z -- tests docs pyproject.toml README.md \
    | tar --create --null --files-from=- | tar --extract --directory "$root/work"

cat > "$root/work/run.sh" <<'GUEST'
set -eu
mount -t proc proc /proc
mount -t tmpfs tmpfs /tmp
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8
rm -rf /venv
python3 -m venv /venv
install="/venv/bin/pip --quiet --disable-pip-version-check install --no-index --find-links /work/wheels"
echo "arm64: $(uname -m), $(python3 --version); pip install nanofleet[agent]"
$install 'nanofleet[agent]'
/venv/bin/pip check
cd /
/venv/bin/nanofleet-agent version
/venv/bin/nanofleet-agent doctor || [ $? = 1 ]
$install 'nanofleet[controller]' pytest pytest-asyncio pytest-timeout hypothesis jinja2
cd /work
# The workers that tests start run where the installed agent lies, and are found here.
export PYTHONPATH=/work
# $ARM64_TESTS is a list.
exec /venv/bin/python -m pytest -q -p no:cacheprovider $ARM64_TESTS
GUEST
echo "arm64: entering the emulated machine"
# The first process of the namespace is one of this machine: as the first, QEMU would neither have a parent
# nor die of a signal.
exec unshare --mount --pid --fork --kill-child env -i PATH="$PATH" ARM64_TESTS="$(echo $tests)" \
    /bin/sh -c 'chroot "$1" /bin/sh /work/run.sh; exit $?' arm64 "$root"
