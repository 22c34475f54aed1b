"""The entry point ``nanofleet``: the tree of commands, and the one place where errors end."""

import os
import sys
from collections.abc import Sequence

import typer
from typer.core import TyperGroup

from artifacts import headroom
from controller.cli import (
    adapter,
    artifact,
    chat,
    dataset,
    device,
    embed,
    failures,
    generate,
    init,
    job,
    job_follow,
    key,
    model,
    score,
    serve,
    token,
    top,
    version,
)
from controller.cli.noun import noun
from controller.demo.command import demo
from protos import errors
from protos.exit_codes import ExitCode, code_of

NAME = "nanofleet"
EPILOG = "Example: nanofleet init && nanofleet device token kitchen"


class CommandLine(TyperGroup):
    """The root: runs a command, and turns whatever it raises into text and an exit code."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: object,
    ) -> None:
        # gRPC would write its own lines about what is reported here with reason and remedy.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        given = list(sys.argv[1:] if args is None else args)
        form = failures.wanted_format(given)
        try:
            code = super().main(given, prog_name or NAME, complete_var, standalone_mode=False)
            sys.stdout.flush()
        except errors.NanofleetError as error:
            failures.report(error, form)
            code = code_of(error)
        except typer.TyperException as error:
            failures.report(_usage(error), form)
            code = ExitCode.USAGE
        except (typer.Abort, KeyboardInterrupt):
            sys.stderr.write("\nInterrupted.\n")
            code = ExitCode.INTERRUPTED
        except (BrokenPipeError, SystemExit):
            # SystemExit is how Typer answers a closed pipe; nothing else here raises it.
            code = _reader_went_away()
        except Exception as error:  # noqa: BLE001 (the last resort)
            last = _last_resort(error)
            failures.report(last, form)
            code = code_of(last)
        sys.exit(int(code or ExitCode.OK))


def _usage(error: typer.TyperException) -> errors.InvalidRequest:
    """Typer's own complaint about arguments, in our words' form."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else NAME
    return errors.InvalidRequest(
        error.format_message(), fix=f"See `{command} --help`.", reason="USAGE"
    )


def _last_resort(error: Exception) -> errors.NanofleetError:
    """What the disk did to us; else a defect, with its traceback."""
    named = headroom.fault(error) if isinstance(error, OSError) else None
    if named is not None:
        return named
    import traceback

    traceback.print_exc()
    return errors.InternalError(
        "nanofleet has a defect.",
        why=f"{type(error).__name__}: {error}",
        fix="Report it, with the lines above and the output of `nanofleet version`.",
    )


def _reader_went_away() -> ExitCode:
    """``nanofleet … | head``: no error, and Python must not try to flush at its end either."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return ExitCode.OK


app = typer.Typer(
    name=NAME,
    cls=CommandLine,
    help="Fine-tune and serve small language models on a fleet of edge devices.",
    epilog=EPILOG,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command()(init.init)
app.add_typer(
    noun(
        "device",
        "Join, list, label and remove devices.",
        {
            "token": token.token,
            "list": device.list_devices,
            "show": device.show,
            "events": device.events,
            "label": device.label,
            "remove": device.remove,
        },
    )
)
app.add_typer(
    noun(
        "model",
        "Import and list base models.",
        {"import": model.import_model, "list": model.list_models},
    )
)
app.add_typer(noun("dataset", "Check training data.", {"check": dataset.check}))
app.add_typer(
    noun(
        "artifact",
        "Push, pull, list and remove models, datasets and adapters.",
        {
            "push": artifact.push,
            "pull": artifact.pull,
            "list": artifact.list_artifacts,
            "rm": artifact.remove,
        },
    )
)
app.add_typer(
    noun(
        "adapter",
        "Import, list and merge adapters.",
        {
            "import": adapter.import_adapter,
            "list": adapter.list_adapters,
            "merge": adapter.merge,
        },
    )
)
app.add_typer(
    noun(
        "job",
        "Submit, follow, list and steer jobs.",
        {
            "plan": job.plan,
            "submit": job.submit,
            "list": job.list_jobs,
            "show": job.show,
            "watch": job_follow.watch,
            "wait": job_follow.wait,
            "logs": job_follow.logs,
            "result": job_follow.result,
            "cancel": job.cancel,
            "pause": job.pause,
            "resume": job.resume,
        },
    )
)
app.add_typer(
    noun(
        "key",
        "Make, list and revoke API keys for `serve`.",
        {"add": key.add, "list": key.list_keys, "revoke": key.revoke},
    )
)
app.command()(serve.serve)
app.command()(chat.chat)
app.command()(generate.generate)
app.command()(score.score)
app.command()(embed.embed)
app.command()(demo)
app.command()(top.top)
app.command()(version.version)


def main() -> None:
    app()
