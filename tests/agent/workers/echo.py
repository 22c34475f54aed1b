"""A worker that does what it is told: the other end of the tests of process.py."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from agent.workers.channel import attach
from protos.nanofleet.v1.job_pb2 import LogLine


def descriptors() -> str:
    folder = Path("/proc/self/fd")
    found = {}
    for name in os.listdir(folder):  # noqa: PTH208 - the listing's own descriptor is gone below
        try:
            found[name] = str((folder / name).readlink())
        except OSError:
            continue
    return json.dumps(found)


def main() -> None:
    commands, reports = attach(None, LogLine)
    while (command := commands.read()) is not None:
        match command.text:
            case "print":
                print("on stdout", flush=True)
                print("on stderr", file=sys.stderr, flush=True)
            case "crash":
                raise RuntimeError("as asked")
            case "child":
                child = subprocess.Popen(["sleep", "1000"])
                reports.write(LogLine(text=str(child.pid)))
            case "hang":
                reports.write(LogLine(text="hanging"))
                while True:
                    signal.pause()
            case "babble":
                os.write(reports._descriptor, (3).to_bytes(4, "big") + b"\xff\xff\xff")
            case "eat":
                eaten = [b"x" * (1 << 20) for _ in range(1 << 10)]
                reports.write(LogLine(text=f"{len(eaten)} MiB and still here"))
            case "descriptors":
                reports.write(LogLine(text=descriptors()))
            case text:
                reports.write(LogLine(text=text))


if __name__ == "__main__":
    main()
