"""An error as a document, for programs that read the output of a command.

The same keys from `nanofleet` and from `nanofleet-agent`; docs/exit-codes.md tells what for.
"""

from protos.errors import NanofleetError
from protos.exit_codes import code_of


def document_of(error: NanofleetError) -> dict[str, str | bool | int | float | None]:
    return {
        "type": type(error).__name__,
        "reason": error.reason,
        "what": error.what,
        "why": error.why,
        "fix": error.fix,
        "field": error.field or None,
        "retryable": error.retryable,
        "retry_after_s": error.retry_after_s,
        "exit_code": int(code_of(error)),
    }
