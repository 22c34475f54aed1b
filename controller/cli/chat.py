"""``nanofleet chat``: talk to a model on a device, with an adapter, or with and without it.

Each answer is one connection of its own: Ctrl-C ends the answer that is being written, the
conversation goes on, and a link that broke during one answer does not concern the next.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from controller.cli import chat_view, options, output, served, session
from controller.cli.chat_view import Answer
from controller.cli.output import Format
from protos.errors import InvalidRequest, NanofleetError
from protos.exit_codes import ExitCode

if TYPE_CHECKING:
    from controller import Fleet

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
    digest, adapter_digest = await served.resolved(fleet, device, base, adapter)
    if not adapter_digest:
        return [Voice("", digest)]
    tuned = Voice(adapter if compare_base else "", digest, adapter_digest)
    return [Voice("base", digest), tuned] if compare_base else [tuned]


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
