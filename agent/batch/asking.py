"""From a line of the dataset to what is asked; with the answer, to a line of the new one. Pure."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from agent.batch.answers import Sample
from agent.inference import wire
from agent.inference.engine import Adapter, Message, Request
from artifacts import template
from artifacts.prompts import PromptLine
from protos.nanofleet.v1 import inference_pb2, job_pb2

# Text that is continued, or a conversation.
Asked: TypeAlias = str | tuple[Message, ...]


def asked(spec: job_pb2.GenerateSpec, line: PromptLine) -> Asked | None:
    """None when a part of it would be empty: a sample with an empty part is no sample."""
    match spec.WhichOneof("template"):
        case "prompt":
            prompt: Asked = template.rendered(spec.prompt, line.fields)
        case "chat":
            prompt = tuple(
                Message(message.role, template.rendered(message.content, line.fields))
                for message in spec.chat.messages
            )
        case _:
            prompt = _conversation(spec.conversation.system, line)
    texts = [prompt] if isinstance(prompt, str) else [message.content for message in prompt]
    if spec.output_prompt:
        texts.append(template.rendered(spec.output_prompt, line.fields))
    return prompt if all(text.strip() for text in texts) else None


def request(
    spec: job_pb2.GenerateSpec, prompt: Asked, seed: int, adapter: Adapter | None
) -> Request:
    """As an interactive request with the same fields would be read."""
    same = inference_pb2.GenerateRequest(max_tokens=spec.max_tokens, stop=spec.stop)
    same.sampling.CopyFrom(spec.sampling)
    same.sampling.seed = seed
    match spec.WhichOneof("grammar"):
        case "gbnf":
            same.gbnf = spec.gbnf
        case "json_schema":
            same.json_schema = spec.json_schema
    if isinstance(prompt, str):
        same.prompt = prompt
    else:
        messages = [inference_pb2.ChatMessage(role=m.role, content=m.content) for m in prompt]
        same.chat.CopyFrom(inference_pb2.Chat(messages=messages))
    return wire.generation(same, adapter)


def seed_of(seed: int, line: int, number: int) -> int:
    """Of one answer to one line, whatever was answered before it."""
    text = f"{seed} {line} {number}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")


def sample(spec: job_pb2.GenerateSpec, line: PromptLine, prompt: Asked, answer: str) -> Sample:
    """The line of the new dataset."""
    shown = _shown(spec, line, prompt)
    if spec.output == job_pb2.OUTPUT_SHAPE_COMPLETION:
        text = shown if isinstance(shown, str) else shown[-1].content
        return {"prompt": text, "completion": answer}
    told = (Message("user", shown),) if isinstance(shown, str) else shown
    return {"messages": [*map(_plain, told), _plain(Message("assistant", answer))]}


def _shown(spec: job_pb2.GenerateSpec, line: PromptLine, prompt: Asked) -> Asked:
    return template.rendered(spec.output_prompt, line.fields) if spec.output_prompt else prompt


def _conversation(system: str, line: PromptLine) -> tuple[Message, ...]:
    told: Sequence[Message] = [Message(m.role, m.content) for m in line.messages]
    if system and told[0].role != "system":
        told = [Message("system", system), *told]
    return tuple(told)


def _plain(message: Message) -> Mapping[str, str]:
    return {"role": message.role, "content": message.content}
