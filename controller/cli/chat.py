"""``nanofleet chat``: talk to a model on a device, with an adapter, or with and without it.

Each answer is one connection of its own: Ctrl-C ends the answer that is being written, the
conversation goes on, and a link that broke during one answer does not concern the next.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from controller import lineage
from controller.cli import artifact_view, chat_view, options, output, selection, session
from controller.cli.chat_view import Answer
from controller.cli.output import Format
from protos.errors import InvalidRequest, NanofleetError, NotFound, Unreachable
from protos.exit_codes import ExitCode

if TYPE_CHECKING:
    from controller import CatalogueEntry, Fleet

_HELP = "An empty line or /exit ends the conversation, /reset forgets it. Ctrl-C ends an answer."


@dataclass(slots=True)
class Voice:
    """One side of a comparison: the base model alone, or with an adapter; it keeps its own past."""

    title: str
    base: str
    adapter: str = ""
    past: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Sampling:
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repeat_penalty: float
    seed: int
    stop: tuple[str, ...]


def chat(
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="The device that answers.")],
    message: Annotated[
        str, typer.Option("-m", "--message", help="Ask this, print the answer, end.")
    ] = "",
    base: Annotated[
        str,
        typer.Option(help="The base model.  [default: the adapter's, or the one in memory]"),
    ] = "",
    adapter: Annotated[str, typer.Option(help="The adapter: a name or a digest.")] = "",
    compare_base: Annotated[
        bool,
        typer.Option("--compare-base", help="The base model answers first, then the adapter."),
    ] = False,
    system: Annotated[str, typer.Option(help="A system message.")] = "",
    max_tokens: Annotated[int, typer.Option(min=1, help="The longest answer, in tokens.")] = 256,
    temperature: Annotated[float, typer.Option(min=0, help="0 always takes the likeliest.")] = 0.0,
    top_p: Annotated[float, typer.Option(min=0, max=1, help="0 is off.")] = 0.0,
    top_k: Annotated[int, typer.Option(min=0, help="0 is off.")] = 0,
    min_p: Annotated[float, typer.Option(min=0, max=1, help="0 is off.")] = 0.0,
    repeat_penalty: Annotated[float, typer.Option(min=0, help="0 is off.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same answer.")] = 0,
    stop: Annotated[list[str] | None, typer.Option(help="End the answer at this text.")] = None,
    form: options.Output = Format.TABLE,
    home: options.Home = None,
) -> None:
    """Talk to a model on a device.

    The answer appears as it is generated. With --message one answer is printed; without it a
    conversation starts.

    Example: nanofleet chat kitchen --adapter persona --compare-base -m "Who are you?"
    """
    if compare_base and not adapter:
        raise InvalidRequest("--compare-base needs an --adapter to compare with.", field="adapter")
    sampling = Sampling(
        max_tokens, temperature, top_p, top_k, min_p, repeat_penalty, seed, tuple(stop or ())
    )
    voices = session.run(home, lambda fleet: _voices(fleet, device, base, adapter, compare_base))
    for voice in voices:
        voice.past.extend([("system", system)] if system else [])
    if message:
        answers = [_answer(device, voice, message, sampling, form, home) for voice in voices]
        chat_view.print_answers(answers, form)
        return
    if form is not Format.TABLE:
        raise InvalidRequest(
            f"A conversation cannot be printed as {form.value}.", fix="Ask one --message."
        )
    _converse(device, voices, sampling, home)


async def _voices(
    fleet: "Fleet", device: str, base: str, adapter: str, compare_base: bool
) -> list[Voice]:
    """Who answers, in this order. Names are resolved before the first question is asked."""
    selection.named(fleet, device)
    if not adapter:
        return [Voice("", await _base(fleet, device, base, None))]
    entry = fleet.resolve(adapter, options.Kind.ADAPTER.number)
    digest = await _base(fleet, device, base, entry)
    _tell_of_sibling(fleet.artifacts(options.Kind.MODEL.number), entry, digest)
    tuned = Voice(adapter if compare_base else "", digest, entry.digest)
    return [Voice("base", digest), tuned] if compare_base else [tuned]


async def _base(fleet: "Fleet", device: str, named: str, adapter: "CatalogueEntry | None") -> str:
    if named:
        return fleet.resolve(named, options.Kind.MODEL.number).digest
    models = fleet.artifacts(options.Kind.MODEL.number)
    choices = [model.digest for model in models]
    if adapter is not None:
        choices = lineage.serving_bases(adapter, models)
        if len(choices) == 1:
            return choices[0]
    status = await fleet.status(device)
    if not status.reachable:
        raise Unreachable(status.problem)
    loaded = status.device.loaded_model.base_digest if status.device is not None else ""
    if loaded and (adapter is None or loaded in choices):
        return loaded
    if len(choices) == 1:
        return choices[0]
    fitting = "" if adapter is None else f" that {adapter.name} can be served on"
    raise NotFound(
        "Which base model?",
        why=f"{device} has none{fitting} in memory, and the fleet has {len(choices)}.",
        fix="Name it with --base; see `nanofleet model list`.",
    )


def _tell_of_sibling(
    models: "Sequence[CatalogueEntry]", adapter: "CatalogueEntry", base: str
) -> None:
    """Says so when the adapter was trained on another file of the model that answers."""
    known = {model.digest: model for model in models}
    answering = known.get(base)
    if answering is None or not lineage.is_sibling(adapter, answering):
        return
    trained = str(adapter.details["base_digest"])
    output.note(
        f"{adapter.name} was trained on {_described(known.get(trained), trained)}; "
        f"{_described(answering, base)}, which answers, was made of the same original weights."
    )


def _described(model: "CatalogueEntry | None", digest: str) -> str:
    if model is None:
        return artifact_view.short(digest)
    return f"{model.name} ({model.details.get('file_type')})"


def _answer(
    device: str, voice: Voice, question: str, sampling: Sampling, form: Format, home: Path | None
) -> Answer:
    """Asks one voice and shows what it says; remembers both when the answer is complete."""
    answer = Answer(voice.title, voice.adapter)
    messages = [*voice.past, ("user", question)]

    async def ask(fleet: "Fleet") -> None:
        stream = fleet.generate(
            device,
            base=voice.base,
            adapter=voice.adapter,
            messages=messages,
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            repeat_penalty=sampling.repeat_penalty,
            seed=sampling.seed,
            stop=sampling.stop,
        )
        async for part in stream:
            chat_view.show_part(answer, part, form)

    chat_view.show_title(answer, form)
    try:
        session.run(home, ask)
    finally:
        chat_view.show_end(answer, form)
    voice.past[:] = [*messages, ("assistant", answer.text)]
    return answer


def _converse(device: str, voices: list[Voice], sampling: Sampling, home: Path | None) -> None:
    is_typed = sys.stdin.isatty()
    beginnings = [list(voice.past) for voice in voices]
    if is_typed:
        import readline  # noqa: F401 (line editing and history for input())

        output.note(_HELP)
    while (question := _question(is_typed)) is not None:
        if question == "/reset":
            for voice, beginning in zip(voices, beginnings, strict=True):
                voice.past[:] = beginning
            continue
        try:
            for voice in voices:
                _answer(device, voice, question, sampling, Format.TABLE, home)
        except KeyboardInterrupt:
            if not is_typed:
                raise
            output.note("(ended)")
        except NanofleetError as error:
            if not (is_typed and error.retryable):
                raise
            output.note(f"{error}")


def _question(is_typed: bool) -> str | None:
    """The next line; None at the end. Ctrl-C at the prompt leaves."""
    try:
        line = input("> " if is_typed else "").strip()
    except EOFError:
        if is_typed:
            output.note("")
        return None
    except KeyboardInterrupt:
        output.note("")
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    return None if line in ("", "/exit", "/quit") else line
