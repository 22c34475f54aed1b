"""A noun of the command line: a group of verbs that shows its help when none is given."""

from collections.abc import Callable, Mapping

import typer

from controller.cli import output
from protos.exit_codes import ExitCode


def noun(name: str, about: str, verbs: Mapping[str, Callable[..., None]]) -> typer.Typer:
    epilog = f"Example: nanofleet {name} {next(iter(verbs))} --help"
    group = typer.Typer(name=name, help=about, epilog=epilog, rich_markup_mode=None)

    @group.callback(invoke_without_command=True)
    def show_help(context: typer.Context) -> None:
        if context.invoked_subcommand is None:
            output.note(context.get_help())
            raise typer.Exit(ExitCode.USAGE)

    for verb, command in verbs.items():
        group.command(verb)(command)
    return group
