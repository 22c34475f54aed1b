"""``nanofleet version``."""

import platform

from controller.cli import options, output
from controller.cli.output import Card, Format


def version(form: options.Output = Format.TABLE) -> None:
    """Print the version of nanofleet.

    Example: nanofleet version -o json
    """
    known = {
        "nanofleet": installed(),
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
    }
    output.record("version", dict(known), Card(list(known.items())), form)


def installed() -> str:
    """The version of the installed distribution; "unknown" in a bare checkout."""
    from importlib import metadata

    try:
        return metadata.version("nanofleet")
    except metadata.PackageNotFoundError:
        return "unknown"
