"""What is said when a part is started whose dependencies were not installed.

``pip install nanofleet`` brings three libraries; each part has an extra of its own. Without it a
command must not end in a traceback about a module that its user never heard of.
"""

from protos.errors import Refused

_OURS = ("agent", "artifacts", "controller", "jetson", "protos")


def missing(error: ModuleNotFoundError, extra: str) -> Refused:
    """The error for people; raises ``error`` itself when it is one of our own modules."""
    library = error.name or ""
    if library.split(".")[0] in _OURS:
        raise error
    return Refused(
        f"nanofleet is installed here without its part {extra!r}.",
        why=f"The Python module {library} is not there.",
        fix=f"Install it: pip install 'nanofleet[{extra}]'.",
        reason="NOT_INSTALLED",
    )
