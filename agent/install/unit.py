"""The systemd unit: least rights that the agent needs, and a watchdog that it feeds by progress.

Why some of the usual hardening is missing:

    MemoryDenyWriteExecute   torch and ONNX Runtime write their kernels while they run
    PrivateDevices           a Jetson's GPU is a dozen devices below /dev; DevicePolicy names them
    ProtectControlGroups     each worker gets a memory limit in a group below the delegated one
    ProcSubset=pid           telemetry reads /proc/meminfo, /proc/stat and the pressure files
    PrivateUsers             would take the membership in video and render away

Directives that an older systemd does not know (JetPack 4 has 237) are ignored by it with a warning.
"""

from collections.abc import Mapping
from pathlib import Path

from agent.install.place import STATE, USER

_UNIT = """\
# Written by `nanofleet-agent install`, and written again by the next one: put changes into
# `systemctl edit nanofleet-agent`.
[Unit]
Description=nanofleet agent: trains and serves language models on this device
After=network.target time-sync.target
# A board in a field is never given up, however often its power goes.
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
User={user}
ExecStart={program} run --state {state}
{environment}StateDirectory={state_name}
StateDirectoryMode=0700
UMask=0077

Restart=always
RestartSec=5
# Fed by progress of the event loop, the journal and the running job (agent/heartbeat.py).
WatchdogSec=120
# An SD card takes its time.
TimeoutStartSec=180
# SIGTERM to the agent alone: it ends its workers after their checkpoint, and asks for more time
# than this while a slow board computes its last step.
KillMode=mixed
TimeoutStopSec=90

# A worker that the kernel kills for memory is the agent's to report, not a reason to stop it.
OOMPolicy=continue
OOMScoreAdjust=-500
Delegate=memory

NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateMounts=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectClock=yes
ProtectHostname=yes
ProtectProc=invisible
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
RemoveIPC=yes
KeyringMode=private
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
DevicePolicy=closed
# Jetson: /dev/nvmap, /dev/nvhost-*, /dev/nvgpu/*; other GPUs: /dev/nvidia*; both: /dev/dri/render*.
DeviceAllow=/dev/nvmap rw
DeviceAllow=char-nv* rw
DeviceAllow=char-drm rw

[Install]
WantedBy=multi-user.target
"""


def unit(program: Path, environment: Mapping[str, str]) -> str:
    """``environment``: what the board's profile gives the agent and its workers."""
    lines = "".join(f"Environment={name}={value}\n" for name, value in sorted(environment.items()))
    return _UNIT.format(
        user=USER, program=program, state=STATE, state_name=STATE.name, environment=lines
    )
