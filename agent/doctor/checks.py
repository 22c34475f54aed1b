"""The doctor's checks, in the order in which they are shown, each with what to do.

A check is a name, a remedy, and a function that gets the Site (where to look), so that each can be
made to fail in a test, and returns what it found. Nothing here changes the device: what is written
to measure the disk is gone again.
"""

from agent.doctor import board, engines, membership, storage
from agent.doctor.examination import Check

CHECKS: tuple[Check, ...] = (
    Check(
        "state folder",
        "Make it, and give it to the user that runs the agent: mkdir -p, chown, chmod 700.",
        membership.state_folder,
    ),
    Check(
        "key",
        "Join a fleet with `nanofleet-agent join TOKEN`; a key that others can read: chmod 600.",
        membership.key,
    ),
    Check(
        "certificate",
        "Join the fleet (again) with `nanofleet-agent join TOKEN`; a token comes from"
        " `nanofleet device token NAME` on the controller. Check the clock first.",
        membership.certificate,
    ),
    Check(
        "permissions",
        "Give it to the service's user: `chown -R nanofleet: DIR`; for the GPU:"
        " `usermod -aG video,render nanofleet`, then restart the agent.",
        membership.ownership,
    ),
    Check(
        "clock",
        "Give the board the time: `timedatectl set-ntp true`, or a clock battery. Jobs run without"
        " it; only the dates in records are wrong.",
        membership.clock,
    ),
    Check(
        "disk",
        "Remove artifacts that no job needs (`nanofleet artifact rm`), or move the state folder"
        " to a larger disk.",
        storage.disk,
    ),
    Check(
        "storage",
        "Move the state folder to NVMe or an SSD, or replace the card: one that is worn loses what"
        " was written. After errors of the file system: fsck, from another system.",
        storage.storage,
    ),
    Check(
        "port",
        "End what listens there (`ss -ltnp` names it), or choose another port with --port.",
        membership.port,
    ),
    Check("engine llama", "Install it: pip install 'nanofleet[infer]'.", engines.engine("llama")),
    Check("engine torch", "Install it: pip install 'nanofleet[train]'.", engines.engine("torch")),
    Check(
        "golden vector",
        "Build the engine on this machine: pip install --force-reinstall --no-cache-dir"
        " --no-binary llama-cpp-python 'nanofleet[infer]'.",
        engines.golden_vector,
    ),
    Check(
        "processor",
        "Build llama-cpp-python with the CMAKE_ARGS of this very board (docs/boards.md).",
        engines.features,
    ),
    Check(
        "container",
        "Start it with the NVIDIA runtime (`--runtime nvidia`) to train on the GPU; the processor"
        " needs nothing.",
        board.container,
    ),
    Check(
        "board",
        "Update L4T to 36.5.0 or later: 36.4.7 refuses large GPU buffers (NvMap error 12).",
        board.board,
    ),
    Check(
        "profile",
        "Write what you want into agent.toml.",
        board.profile,
    ),
    Check(
        "power mode",
        "`sudo nvpmodel -q` shows the mode, `sudo nvpmodel -m ID` chooses one; some want a reboot.",
        board.power_mode,
    ),
    Check(
        "memory",
        "Stop what else runs on the board (a desktop takes 250 to 865 MB), or use smaller models.",
        board.available_memory,
    ),
    Check(
        "allocation",
        "Free memory first. Where enough is free: reboot (it is in pieces), and leave L4T 36.4.7"
        " for 36.5.0 or later.",
        board.allocation,
    ),
    Check(
        "desktop",
        "Start without it: `sudo systemctl set-default multi-user.target`, then reboot.",
        board.desktop,
    ),
    Check(
        "swap",
        "Use a swap file on NVMe or SSD in place of zram, which takes the memory that training"
        " needs: `sudo systemctl disable nvzramconfig`, then fallocate, mkswap, swapon.",
        storage.swap,
    ),
    Check(
        "power sensor",
        "Without one, energy and joules a token are absent; nothing else is. On a workstation run"
        " the agent as root to read RAPL.",
        board.power_sensor,
    ),
)
