"""``nanofleet embed``: vectors of texts, by a model on a device."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from controller.cli import options, output, plain, served, session
from controller.cli.output import Format, Table
from controller.cli.plain import Plain
from protos.errors import InvalidRequest
from protos.nanofleet.v1 import inference_pb2

if TYPE_CHECKING:
    from controller import Fleet


def embed(
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="The device that computes.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A text in each line.")],
    base: Annotated[
        str,
        typer.Option(help="The base model.  [default: the adapter's, or the one in memory]"),
    ] = "",
    adapter: Annotated[str, typer.Option(help="The adapter: a name or a digest.")] = "",
    normalized: Annotated[
        bool, typer.Option("--normalized", help="To a length of 1, for cosines.")
    ] = False,
    form: options.Output = Format.JSONL,
    home: options.Home = None,
) -> None:
    """Compute the embedding of each line of a text file.

    A vector is the mean of the model's final hidden states over the text. Empty lines are left
    out; a vector's ``line`` tells which it belongs to.

    Example: nanofleet embed kitchen questions.txt --normalized > vectors.jsonl
    """
    texts = _lines(file)

    async def ask(fleet: "Fleet") -> list[dict[str, Plain]]:
        base_digest, adapter_digest = await served.resolved(fleet, device, base, adapter)
        found = []
        stream = fleet.embed(
            device,
            list(texts.values()),
            base=base_digest,
            adapter=adapter_digest,
            normalized=normalized,
        )
        lines = list(texts)
        async for response in stream:
            found.append(_as_plain(response, lines[response.index]))
            if form is Format.JSONL:
                output.line(found[-1])
        return found

    found = session.run(home, ask)
    if form is not Format.JSONL:
        rows = [(str(e["line"]), str(e["tokens"]), texts[int(str(e["line"]))]) for e in found]
        output.listing("embeddings", found, Table(("LINE", "TOKENS", "TEXT"), rows), form)


def _lines(file: Path) -> dict[int, str]:
    """The texts by their line, counted from 1."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{file} cannot be read: {error}.", field="file") from None
    texts = {number: line for number, line in enumerate(lines, 1) if line.strip()}
    if not texts:
        raise InvalidRequest(f"{file} has no text.", fix="Write a text in each line.", field="file")
    return texts


def _as_plain(response: inference_pb2.EmbedResponse, line: int) -> dict[str, Plain]:
    fields = plain.message(response)
    return {"line": line, "tokens": fields["tokens"], "embedding": fields["embedding"]}
