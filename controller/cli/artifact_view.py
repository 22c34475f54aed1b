"""How artifacts and transfers are shown."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from controller.cli import plain, units
from controller.cli.output import Table
from controller.cli.plain import Plain
from protos.nanofleet.v1 import artifact_pb2

if TYPE_CHECKING:
    from controller import CatalogueEntry, Transfer

_SHORT_DIGITS = 12
# Which of an entry's details a table shows, in this order.
_TELLING = (
    "architecture",
    "file_type",
    "context_length",
    "shape",
    "samples",
    "rank",
    "final_loss",
)


def short(digest: str) -> str:
    """Twelve digits: enough to be unique, short enough for a column."""
    return digest.partition(":")[2][:_SHORT_DIGITS] or digest


def kind_name(kind: int) -> str:
    return plain.enum_name(artifact_pb2.ArtifactKind.DESCRIPTOR, kind)


def kind_word(kind: int) -> str:
    """The word that ``--kind`` takes."""
    return kind_name(kind).removeprefix("base_")


def table(entries: "Sequence[CatalogueEntry]", empty: str) -> Table:
    rows = [
        [
            entry.name or units.ABSENT,
            kind_word(entry.kind),
            units.size(entry.size_bytes),
            short(entry.digest),
            _details(entry.details) or units.ABSENT,
        ]
        for entry in entries
    ]
    return Table(("NAME", "KIND", "SIZE", "DIGEST", "DETAILS"), rows, empty)


def conversion(details: Mapping[str, object]) -> list[str]:
    """What the conversion of a model has to say: what was proved, and warnings."""
    lines = []
    if isinstance(proof := details.get("proof"), Mapping):
        lines.append(
            f"proved: in float32, logits within {proof['logit_difference']:.1g} of the original's; "
            f"as {str(details['file_type']).lower()}, the next token moves by "
            f"{proof['divergence_nats']:.1g} nats; all tokens of {proof['texts']} texts the same."
        )
    warnings = details.get("warnings")
    lines += [f"warning: {said}" for said in warnings] if isinstance(warnings, list) else []
    return lines


def as_plain(entry: "CatalogueEntry") -> dict[str, Plain]:
    return {
        "name": entry.name or None,
        "digest": entry.digest,
        "size_bytes": entry.size_bytes,
        "kind": kind_name(entry.kind),
        "details": {key: _simple(value) for key, value in entry.details.items()},
    }


def remote_table(
    device: str, artifacts: Sequence[artifact_pb2.Artifact], names: Mapping[str, str]
) -> Table:
    """What a device holds; ``names`` are the fleet's, by digest."""
    rows = [
        [
            names.get(artifact.digest, units.ABSENT),
            kind_word(artifact.kind),
            units.size(artifact.size_bytes),
            short(artifact.digest),
            ", ".join(artifact.pins) or units.ABSENT,
        ]
        for artifact in artifacts
    ]
    columns = ("NAME", "KIND", "SIZE", "DIGEST", "NEEDED BY")
    return Table(columns, rows, f"{device} holds no artifacts.")


def transfer_table(transfers: "Sequence[Transfer]") -> Table:
    rows = [
        [
            transfer.device,
            short(transfer.digest),
            units.size(transfer.size_bytes),
            "already there" if transfer.already_there else units.size(transfer.sent_bytes),
            units.ABSENT if transfer.already_there else units.duration(transfer.seconds),
            units.ABSENT
            if transfer.already_there
            else units.speed(transfer.sent_bytes, transfer.seconds),
        ]
        for transfer in transfers
    ]
    return Table(("DEVICE", "DIGEST", "SIZE", "MOVED", "TIME", "SPEED"), rows)


def transfer_plain(transfer: "Transfer") -> dict[str, Plain]:
    return {
        "device": transfer.device,
        "digest": transfer.digest,
        "size_bytes": transfer.size_bytes,
        "sent_bytes": transfer.sent_bytes,
        "seconds": transfer.seconds,
        "already_there": transfer.already_there,
    }


def _details(details: Mapping[str, object]) -> str:
    known = [(key, details[key]) for key in _TELLING if details.get(key) not in (None, "", 0)]
    return ", ".join(f"{key.replace('_', ' ')} {_brief(value)}" for key, value in known)


def _brief(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _simple(value: object) -> Plain:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _simple(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_simple(item) for item in value]
    return str(value)
