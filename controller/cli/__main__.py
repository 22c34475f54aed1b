"""The command ``nanofleet``: a first step that needs nothing but what every install has."""

import sys

from protos import extras
from protos.exit_codes import ExitCode, code_of


def main() -> None:
    try:
        from controller.cli.main import main as run
    except ModuleNotFoundError as error:
        refused = extras.missing(error, "controller")
        print(f"error: {refused.what}\n  why: {refused.why}\n  fix: {refused.fix}", file=sys.stderr)
        sys.exit(code_of(refused))
    except KeyboardInterrupt:
        sys.stderr.write("\nInterrupted.\n")
        sys.exit(ExitCode.INTERRUPTED)
    run()


if __name__ == "__main__":
    main()
