"""``nanofleet score``: how likely a model finds the answers of a dataset."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from controller.cli import options, output, plain, served, session
from controller.cli.output import Card, Format
from protos.nanofleet.v1 import inference_pb2

if TYPE_CHECKING:
    from controller import Fleet


def score(
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="The device that computes.")],
    dataset: Annotated[Path, typer.Argument(metavar="FILE", help="A dataset, as for training.")],
    base: Annotated[
        str,
        typer.Option(help="The base model.  [default: the adapter's, or the one in memory]"),
    ] = "",
    adapter: Annotated[str, typer.Option(help="The adapter: a name or a digest.")] = "",
    form: options.Output = Format.TABLE,
    home: options.Home = None,
) -> None:
    """Measure the loss and the perplexity of a dataset's answers, with an adapter or without.

    Counted are the tokens that training would learn, so the loss is that of an evaluation. With
    -o jsonl each sample's own figures, as they come.

    Example: nanofleet score kitchen held-out.jsonl --adapter persona
    """
    from artifacts import dataset as datasets

    samples = list(datasets.read(dataset))

    async def ask(fleet: "Fleet") -> list[inference_pb2.ScoreResponse]:
        base_digest, adapter_digest = await served.resolved(fleet, device, base, adapter)
        found = []
        stream = fleet.score(device, samples, base=base_digest, adapter=adapter_digest)
        async for response in stream:
            found.append(response)
            if form is Format.JSONL:
                output.line(plain.message(response))
        return found

    found = session.run(home, ask)
    if form is not Format.JSONL:
        _print(found, form)


def _print(found: Sequence[inference_pb2.ScoreResponse], form: Format) -> None:
    tokens = sum(response.tokens for response in found)
    loss = -math.fsum(response.logprob_sum for response in found) / tokens
    perplexity = math.exp(min(loss, 700.0))
    output.record(
        "score",
        {"samples": len(found), "tokens": tokens, "loss": loss, "perplexity": perplexity},
        Card(
            [
                ("samples", f"{len(found):,}"),
                ("tokens", f"{tokens:,}"),
                ("loss", f"{loss:.4f}"),
                ("perplexity", f"{perplexity:.4g}"),
            ]
        ),
        form,
    )
