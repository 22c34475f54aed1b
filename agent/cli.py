"""`nanofleet-agent`: run the agent on a device, make it join a fleet, look at it.

argparse and lazy imports: on a small board each command should be there in a blink, and the
daemon must not carry what only `join` needs. Errors become text and an exit code here, once; the
codes are those of protos/exit_codes.py.
"""

import argparse
import asyncio
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from agent import config as configs
from artifacts import headroom
from protos import errors, extras
from protos.error_document import document_of
from protos.exit_codes import ExitCode, code_of

if TYPE_CHECKING:
    from agent.doctor.examination import Finding
    from agent.telemetry.simulation import Wanted

SCHEMA_VERSION = 1


def main(argv: Sequence[str] | None = None) -> int:
    # gRPC would write its own lines about what is reported here with reason and remedy.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    arguments = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = arguments.run
    try:
        code = _installed(run, arguments)
        sys.stdout.flush()
        return code
    except errors.NanofleetError as error:
        return _reported(error, arguments)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # `nanofleet-agent … | head`: no error, and Python must not try to flush at its end either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except OSError as error:
        named = headroom.fault(error)
        if named is None:
            raise
        return _reported(named, arguments)


def _reported(error: errors.NanofleetError, arguments: argparse.Namespace) -> int:
    is_json = getattr(arguments, "output", "text") == "json"
    shown = document({"error": document_of(error)}) if is_json else _error_text(error)
    print(shown, file=sys.stderr)
    return code_of(error)


def _installed(run: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> int:
    try:
        return run(arguments)
    except ModuleNotFoundError as error:
        raise extras.missing(error, "agent") from None


def _error_text(error: errors.NanofleetError) -> str:
    parts = (("error: ", error.what), ("  why: ", error.why), ("  fix: ", error.fix))
    return "\n".join(label + sentence for label, sentence in parts if sentence)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nanofleet-agent",
        description="The agent of nanofleet on a device.",
        epilog="example:\n  nanofleet-agent join TOKEN && nanofleet-agent run",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = _command(
        commands,
        "run",
        _run,
        "Run the agent until SIGTERM.",
        "nanofleet-agent run --state /var/lib/nanofleet",
    )
    run.add_argument("--host", help="address to listen on (default: agent.toml, else 0.0.0.0)")
    run.add_argument("--port", type=int, help="port to listen on (default: agent.toml, else 7401)")
    run.add_argument(
        "--board", metavar="NAME", help="simulate this board, to rehearse a fleet (nano-4gb, …)"
    )
    run.add_argument(
        "--root", type=Path, metavar="TREE", help="with --board: replay the tree recorded here"
    )
    run.add_argument("--verbose", action="store_true", help="log what is done, not only what fails")
    join = _command(
        commands,
        "join",
        _join,
        "Join a fleet with a token from its controller.",
        "nanofleet-agent join k3v9.SECRET.PIN@10.0.0.2:7402",
    )
    join.add_argument("token", metavar="TOKEN", help="id.secret.pin@host:port")
    join.add_argument(
        "--advertise", metavar="HOST:PORT", help="where the controller reaches this agent"
    )
    log = _command(
        commands,
        "tegrastats",
        _tegrastats,
        "Sum up a log of tegrastats: power, energy, heat, memory, and what cannot be read.",
        "nanofleet-agent tegrastats board.log -o json",
    )
    log.add_argument("file", type=Path, metavar="FILE", help="what tegrastats wrote")
    log.add_argument(
        "--period",
        type=float,
        default=1.0,
        metavar="SECONDS",
        help="between lines that have no time (default: %(default)s)",
    )
    log.add_argument("-o", "--output", choices=("text", "json"), default="text")
    for name, function, what in (
        ("status", _status, "Show what the running agent is and does."),
        ("health", _health, "Ask the running agent whether it serves; exit code 0 says yes."),
        ("doctor", _doctor, "Look for what is wrong with this device."),
        ("version", _version, "Show the version."),
    ):
        command = _command(commands, name, function, what, f"nanofleet-agent {name} -o json")
        command.add_argument("-o", "--output", choices=("text", "json"), default="text")
        if name == "doctor":
            command.add_argument(
                "--strict", action="store_true", help="end with 1 for a warning, too"
            )
    _add_installation(commands)
    return parser


def _add_installation(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    install = _command(
        commands,
        "install",
        _install,
        "Make the agent a service of this machine.",
        "nanofleet-agent install --dry-run",
        has_state=False,
    )
    install.add_argument(
        "--module", default="", help="part number of an image's board, such as p3767-0005"
    )
    install.add_argument(
        "--program", type=Path, metavar="FILE", help="what the service starts (default: this one)"
    )
    uninstall = _command(
        commands,
        "uninstall",
        _uninstall,
        "Remove the service; jobs, artifacts and identity stay.",
        "nanofleet-agent uninstall",
        has_state=False,
    )
    uninstall.add_argument("--purge", action="store_true", help="remove state and user, too")
    for command in (install, uninstall):
        command.add_argument(
            "--root",
            type=Path,
            default=Path("/"),
            metavar="DIR",
            help="an image's root folder",
        )
        command.add_argument("--dry-run", action="store_true", help="print what would be done")


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    function: Callable[[argparse.Namespace], int],
    what: str,
    example: str,
    *,
    has_state: bool = True,
) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        help=what,
        description=what,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=function)
    if has_state:
        command.add_argument(
            "--state",
            type=Path,
            default=configs.default_state(),
            metavar="DIR",
            help="the agent's state folder (default: %(default)s)",
        )
    return command


def _run(arguments: argparse.Namespace) -> int:
    from agent import daemon

    level = logging.INFO if arguments.verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")
    config = configs.load(arguments.state)
    chosen = {"host": arguments.host, "port": arguments.port}
    given = {name: value for name, value in chosen.items() if value is not None}
    chosen_config = replace(config, listen=replace(config.listen, **given))
    daemon.run(chosen_config, arguments.state, _simulated(arguments))
    return 0


def _simulated(arguments: argparse.Namespace) -> "Wanted | None":
    if arguments.board is None:
        if arguments.root is not None:
            raise errors.InvalidRequest(
                "--root says nothing without --board.",
                why="A recorded tree is moved as the board of that name would move.",
                fix="Add --board NAME.",
                field="root",
            )
        return None
    from agent.telemetry.simulation import Wanted

    return Wanted(arguments.board, arguments.root)


def _join(arguments: argparse.Namespace) -> int:
    from agent import join

    listen = configs.load(arguments.state).listen
    address = arguments.advertise or listen.advertise or f":{listen.port}"
    name = join.join(join.parse_token(arguments.token), arguments.state, address)
    print(f"This device is {name} now. Start the agent: nanofleet-agent run")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from agent import status

    device, jobs = asyncio.run(status.ask(arguments.state))
    if arguments.output == "json":
        print(document(status.as_plain(device, jobs)))
    else:
        print(status.as_text(device, jobs))
    return 0


def _tegrastats(arguments: argparse.Namespace) -> int:
    from agent.telemetry import imported

    try:
        with arguments.file.open(encoding="utf-8", errors="replace") as lines:
            log = imported.read(lines, arguments.period)
    except OSError as error:
        raise errors.NotFound(
            f"{arguments.file} cannot be read.", why=f"{error.strerror}.", field="file"
        ) from error
    if arguments.output == "json":
        print(document({"log": imported.as_plain(log)}))
    else:
        print(imported.as_text(log))
    return 0


def _health(arguments: argparse.Namespace) -> int:
    from agent import health

    asyncio.run(health.check(arguments.state))
    print(document({"status": "serving"}) if arguments.output == "json" else "serving")
    return 0


def _install(arguments: argparse.Namespace) -> int:
    from agent.install import command

    command.install(
        arguments.root,
        arguments.module,
        arguments.program,
        dry_run=arguments.dry_run,
        tell=print,
    )
    return 0


def _uninstall(arguments: argparse.Namespace) -> int:
    from agent.install import command

    command.uninstall(arguments.root, purge=arguments.purge, dry_run=arguments.dry_run, tell=print)
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from agent.doctor import checks, examination, findings

    config = configs.load(arguments.state)
    site = findings.Site(arguments.state, config.listen.port, engine=config.inference.engine)
    found = examination.examine(site, checks.CHECKS)
    worst = examination.worst(found)
    if arguments.output == "json":
        shown = [_as_dict(finding) for finding in found]
        print(document({"worst": worst.name.lower(), "findings": shown}))
    else:
        print(examination.report(found))
    tolerated = findings.Level.OK if arguments.strict else findings.Level.WARN
    return int(worst > tolerated)


def document(content: Mapping[str, object]) -> str:
    """JSON with its schema version, which rises when a key is removed or changes its meaning."""
    return json.dumps({"schema_version": SCHEMA_VERSION, **content}, indent=2)


def _as_dict(finding: "Finding") -> dict[str, str]:
    return {
        "name": finding.name,
        "status": finding.level.name.lower(),
        "finding": finding.finding,
        "remedy": finding.remedy,
    }


def _version(arguments: argparse.Namespace) -> int:
    from agent.version import VERSION

    print(document({"version": VERSION}) if arguments.output == "json" else VERSION)
    return 0


if __name__ == "__main__":
    sys.exit(main())
