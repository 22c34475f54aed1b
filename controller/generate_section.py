"""The ``generate`` section of a job file: a model answers a dataset, line by line.

    # nanofleet job submit teach.yaml
    name: teach
    generate:
      base: gemma-3-1b-it
      dataset: questions.jsonl
      template: "Answer in one sentence: {question}"
      temperature: 0.7

What is left out follows from the base and the data: an instruct model is asked through its chat
template and gives a dataset of chats, another one continues text; without a template a line's own
conversation, ``prompt`` or ``text`` is what is asked.
"""

import json
from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, Field, model_validator

from artifacts import template
from artifacts.prompts import PromptsReport
from controller.jobfields import Real, Strict, as_tuple
from protos.errors import InvalidRequest
from protos.nanofleet.v1 import inference_pb2, job_pb2

DEFAULT_CONTEXT_LENGTH = 2048

FaultName: TypeAlias = Literal["loop", "cut", "not_json", "repeated"]
FAULTS = {
    "loop": job_pb2.ANSWER_FAULT_LOOP,
    "cut": job_pb2.ANSWER_FAULT_CUT,
    "not_json": job_pb2.ANSWER_FAULT_NOT_JSON,
    "repeated": job_pb2.ANSWER_FAULT_REPEATED,
}
OUTPUTS = {
    "chat": job_pb2.OUTPUT_SHAPE_CHAT,
    "completion": job_pb2.OUTPUT_SHAPE_COMPLETION,
}

Text: TypeAlias = Annotated[str, Field(min_length=1, max_length=1 << 16)]


def _texts(value: object) -> object:
    return (value,) if isinstance(value, str) else as_tuple(value)


class TemplateMessage(Strict):
    role: Literal["system", "user", "assistant"]
    content: Text


class Generate(Strict):
    base: Annotated[str, Field(min_length=1)]
    adapter: str = ""
    dataset: Annotated[str, Field(min_length=1)]
    template: Text | None = None
    messages: (
        Annotated[tuple[TemplateMessage, ...], BeforeValidator(as_tuple), Field(min_length=1)]
        | None
    ) = None
    system: Text | None = None
    chat: bool | None = None
    output: Literal["chat", "completion"] | None = None
    output_prompt: Text | None = None
    answers: Annotated[int, Field(ge=1, le=64)] = 1
    max_tokens: Annotated[int, Field(ge=1, le=32_768)] = 256
    temperature: Annotated[Real, Field(ge=0, le=100)] = 0.0
    top_k: Annotated[int, Field(ge=0, le=1 << 20)] = 0
    top_p: Annotated[Real, Field(ge=0, le=1)] = 0.0
    min_p: Annotated[Real, Field(ge=0, le=1)] = 0.0
    repeat_penalty: Annotated[Real, Field(ge=0, le=100)] = 0.0
    seed: Annotated[int, Field(ge=0, lt=1 << 64)] = 0
    stop: Annotated[tuple[Text, ...], BeforeValidator(_texts), Field(max_length=16)] = ()
    grammar: Text | None = None
    json_schema: dict[str, object] | None = None
    context_length: Annotated[int, Field(ge=64, le=131_072)] | None = None
    drop: Annotated[tuple[FaultName, ...], BeforeValidator(_texts)] = (
        "loop",
        "cut",
        "not_json",
        "repeated",
    )
    threads: Annotated[int, Field(ge=0, le=256)] = 0

    @model_validator(mode="after")
    def _consistent(self) -> "Generate":
        if self.template is not None and self.messages is not None:
            raise ValueError("give either `template` or `messages`")
        if self.system is not None and (self.messages is not None or self.chat is False):
            raise ValueError("`system` goes with a chat; among `messages` it is the first of them")
        if self.messages is not None and self.chat is False:
            raise ValueError("`messages` go through the chat template; leave out `chat: false`")
        if self.grammar is not None and self.json_schema is not None:
            raise ValueError("give either `grammar` or `json_schema`")
        if self.answers > 1 and self.temperature == 0:
            raise ValueError(
                "`answers` are all the same at temperature 0: give a `temperature`, such as 0.7"
            )
        self._check_order()
        for text in self._templates:
            try:
                template.fields_of(text)
            except InvalidRequest as error:
                raise ValueError(str(error)) from error
        return self

    def _check_order(self) -> None:
        roles = [message.role for message in self.messages or ()]
        turns = roles[1:] if roles[:1] == ["system"] else roles
        wanted = ["assistant" if number % 2 else "user" for number in range(len(turns))]
        if roles and (turns != wanted or len(turns) % 2 == 0):
            raise ValueError(
                "the order of `messages` is: system (optional), user, assistant, user, … and the"
                " last is the user's"
            )

    @property
    def _templates(self) -> tuple[str, ...]:
        own = [self.template, self.system, self.output_prompt]
        own += [message.content for message in self.messages or ()]
        return tuple(text for text in own if text is not None)

    def to_spec(
        self,
        *,
        base_digest: str,
        adapter_digest: str,
        dataset_digest: str,
        dataset_name: str,
        report: PromptsReport,
        instruct: bool,
        window: int,
    ) -> job_pb2.GenerateSpec:
        """The spec with every field set. Raises InvalidRequest for what does not go together with
        the base (``instruct``: it has a chat template) or with the data."""
        spec = job_pb2.GenerateSpec(
            base_digest=base_digest,
            adapter_digest=adapter_digest,
            dataset_digest=dataset_digest,
            dataset_name=dataset_name,
            output_prompt=self.output_prompt or "",
            answers=self.answers,
            max_tokens=self.max_tokens,
            sampling=inference_pb2.Sampling(
                temperature=self.temperature,
                top_k=self.top_k,
                top_p=self.top_p,
                min_p=self.min_p,
                repeat_penalty=self.repeat_penalty,
                seed=self.seed,
            ),
            stop=self.stop,
            context_length=self._context(window),
            drop=[FAULTS[name] for name in dict.fromkeys(self.drop)],
            threads=self.threads,
        )
        if self.grammar is not None:
            spec.gbnf = self.grammar
        elif self.json_schema is not None:
            spec.json_schema = json.dumps(self.json_schema)
        self._ask(spec, report, instruct)
        self._shape(spec)
        return spec

    def _context(self, window: int) -> int:
        asked = self.context_length
        if asked is not None and asked > window:
            raise InvalidRequest(
                f"`generate.context_length` is {asked:,}; the base model reads {window:,} tokens.",
                fix=f"Set it to {window} or less.",
                field="generate.context_length",
            )
        return min(DEFAULT_CONTEXT_LENGTH, window) if asked is None else asked

    def _ask(self, spec: job_pb2.GenerateSpec, report: PromptsReport, instruct: bool) -> None:
        """Sets what the model is asked."""
        is_chat = instruct if self.chat is None else self.chat
        if not instruct and (is_chat or self.messages or self.system):
            raise InvalidRequest(
                "The base model has no chat template.",
                why="`messages`, `system` and `chat: true` go through one.",
                fix="Leave them out, or choose an instruction-tuned base.",
                field="generate.chat",
            )
        if report.are_conversations and not self._templates_of_fields:
            spec.conversation.CopyFrom(job_pb2.Conversation(system=self.system or ""))
            if not is_chat:
                raise InvalidRequest(
                    "A conversation needs the chat template.",
                    why="The base model has none, or the job file says `chat: false`.",
                    fix="Choose an instruction-tuned base.",
                    field="generate.chat",
                )
            return
        if self.messages is not None:
            told = [(message.role, message.content) for message in self.messages]
        elif is_chat:
            told = [("system", self.system)] if self.system else []
            told.append(("user", self.template or _usual_template(report)))
        else:
            spec.prompt = self.template or _usual_template(report)
            return
        messages = [inference_pb2.ChatMessage(role=role, content=text) for role, text in told]
        spec.chat.CopyFrom(inference_pb2.Chat(messages=messages))

    @property
    def _templates_of_fields(self) -> bool:
        """Whether the lines are asked for fields: a conversation has none."""
        return bool(self.template or self.messages or self.output_prompt)

    def _shape(self, spec: job_pb2.GenerateSpec) -> None:
        usual = "completion" if spec.HasField("prompt") else "chat"
        spec.output = OUTPUTS[self.output or usual]
        is_one = spec.HasField("prompt") or len(spec.chat.messages) == 1
        if self.output == "completion" and not is_one and self.output_prompt is None:
            raise InvalidRequest(
                "`output: completion` has no place for several messages.",
                why="A line of it has one prompt.",
                fix="Say what stands there: output_prompt, a template such as '{question}'.",
                field="generate.output",
            )


def _usual_template(report: PromptsReport) -> str:
    for name in ("prompt", "text"):
        if name in report.fields:
            return f"{{{name}}}"
    raise InvalidRequest(
        "The job file has no `template`.",
        why=f"The lines have {', '.join(report.fields) or 'no texts'}; which of them is asked?",
        fix="Write one, with the names of fields in braces: template: '{question}'.",
        field="generate.template",
    )
