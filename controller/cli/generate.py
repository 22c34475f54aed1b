"""``nanofleet generate``: one text of a model on a device, for scripts."""

import enum
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from controller.cli import generate_view, options, served, session
from controller.cli.generate_view import Generated
from controller.cli.output import Format
from protos.errors import InvalidRequest

if TYPE_CHECKING:
    from controller import Fleet


class Priority(str, enum.Enum):
    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


def generate(
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="The device that generates.")],
    prompt: Annotated[str, typer.Option("-p", "--prompt", help="The text to go on with.")] = "",
    file: Annotated[
        str, typer.Option("--file", metavar="FILE", help="Read the prompt there; - is stdin.")
    ] = "",
    chat: Annotated[
        bool, typer.Option("--chat", help="The prompt is a user's message, not a text.")
    ] = False,
    base: Annotated[
        str,
        typer.Option(help="The base model.  [default: the adapter's, or the one in memory]"),
    ] = "",
    adapter: Annotated[str, typer.Option(help="The adapter: a name or a digest.")] = "",
    max_tokens: Annotated[int, typer.Option(min=1, help="The longest answer, in tokens.")] = 256,
    temperature: Annotated[float, typer.Option(min=0, help="0 always takes the likeliest.")] = 0.0,
    top_p: Annotated[float, typer.Option(min=0, max=1, help="0 is off.")] = 0.0,
    top_k: Annotated[int, typer.Option(min=0, help="0 is off.")] = 0,
    min_p: Annotated[float, typer.Option(min=0, max=1, help="0 is off.")] = 0.0,
    repeat_penalty: Annotated[float, typer.Option(min=0, help="0 is off.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same text.")] = 0,
    stop: Annotated[list[str] | None, typer.Option(help="End at this text.")] = None,
    suppress: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Never say this text.")
    ] = None,
    grammar: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A grammar in GBNF for the answer.")
    ] = None,
    json_schema: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A JSON schema for the answer.")
    ] = None,
    logprobs: Annotated[
        int | None,
        typer.Option(min=0, max=20, help="Log-probabilities, with so many likeliest tokens."),
    ] = None,
    priority: Annotated[
        Priority, typer.Option(help="Whose turn is first on the device.", show_choices=True)
    ] = Priority.NORMAL,
    deadline: Annotated[
        str, typer.Option(metavar="TIME", help="Give up when its turn has not come by then.")
    ] = "",
    form: options.Output = Format.TABLE,
    home: options.Home = None,
) -> None:
    """Generate one text.

    The text goes to stdout as it comes, the figures to stderr. With a grammar or a JSON schema
    the answer has that form, and ends when it is complete.

    Example: nanofleet generate kitchen --chat -p "A robot, please." --json-schema robot.json
    """
    asked = _prompt(prompt, file)
    gbnf, schema = _text_of(grammar, "grammar"), _text_of(json_schema, "json-schema")
    deadline_s = options.seconds(deadline, "deadline") if deadline else 0.0
    generated = Generated()

    async def ask(fleet: "Fleet") -> None:
        base_digest, adapter_digest = await served.resolved(fleet, device, base, adapter)
        stream = fleet.generate(
            device,
            base=base_digest,
            adapter=adapter_digest,
            prompt="" if chat else asked,
            messages=[("user", asked)] if chat else [],
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            min_p=min_p,
            repeat_penalty=repeat_penalty,
            seed=seed,
            stop=stop or [],
            suppress_texts=suppress or [],
            gbnf=gbnf,
            json_schema=schema,
            top_logprobs=logprobs,
            priority=priority.value,
            deadline_s=deadline_s,
        )
        async for part in stream:
            generate_view.show_part(generated, part, form)

    try:
        session.run(home, ask)
    finally:
        generate_view.show_end(generated, form)
    generate_view.print_whole(generated, form)


def _prompt(prompt: str, file: str) -> str:
    if bool(prompt) == bool(file):
        raise InvalidRequest(
            "What to go on with?",
            why="Both a prompt and a file are given." if prompt else "No prompt is given.",
            fix="Give either --prompt TEXT or --file FILE.",
            field="prompt",
        )
    return prompt or (sys.stdin.read() if file == "-" else _text_of(Path(file), "file"))


def _text_of(path: Path | None, flag: str) -> str:
    if path is None:
        return ""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"--{flag}: {path} cannot be read: {error}.", field=flag) from None
    if not text.strip():
        raise InvalidRequest(f"--{flag}: {path} is empty.", field=flag)
    return text
