"""The `generate` section of a job file: strict, filled with what follows from base and data."""

from pathlib import Path

import pytest

from artifacts.prompts import PromptsReport
from controller.jobfile import load_job_file, parse_job
from protos.errors import InvalidRequest
from protos.nanofleet.v1 import job_pb2

RECORDS = PromptsReport(3, 90, False, ("question", "topic"))
PROMPTS = PromptsReport(3, 90, False, ("prompt", "completion"))
CHATS = PromptsReport(3, 90, True, ())


def spec(
    report: PromptsReport = RECORDS, *, instruct: bool = True, window: int = 32_768, **keys: object
) -> job_pb2.GenerateSpec:
    values = {"base": "b", "dataset": "d.jsonl", **keys}
    job = parse_job({"name": "teach", "generate": values})
    assert job.generate is not None
    assert job.datasets == ("d.jsonl",)
    return job.generate.to_spec(
        base_digest="sha256:b",
        adapter_digest="",
        dataset_digest="sha256:d",
        dataset_name="d.jsonl",
        report=report,
        instruct=instruct,
        window=window,
    )


def told(found: job_pb2.GenerateSpec) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in found.chat.messages]


def test_every_field_is_set() -> None:
    found = spec(template="Q: {question}", system="Be brief.", temperature=0.7, answers=2)
    assert told(found) == [("system", "Be brief."), ("user", "Q: {question}")]
    assert found.output == job_pb2.OUTPUT_SHAPE_CHAT
    assert (found.answers, found.max_tokens, found.context_length) == (2, 256, 2048)
    assert found.sampling.temperature == 0.7
    assert len(found.drop) == 4


def test_a_base_without_a_chat_template_continues_text() -> None:
    found = spec(template="Q: {question}\nA:", instruct=False)
    assert found.prompt == "Q: {question}\nA:"
    assert found.output == job_pb2.OUTPUT_SHAPE_COMPLETION
    assert spec(template="{question}", chat=False).prompt == "{question}"


def test_without_a_template_the_line_says_what_is_asked() -> None:
    assert told(spec(PROMPTS)) == [("user", "{prompt}")]
    chats = spec(CHATS, system="Be brief.")
    assert chats.conversation.system == "Be brief."
    with pytest.raises(InvalidRequest) as caught:
        spec(RECORDS)
    assert str(caught.value).startswith(
        "The job file has no `template`. The lines have question, topic; which of them is asked?"
    )


def test_messages_and_forms() -> None:
    shots = [
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "{question}"},
    ]
    found = spec(messages=shots, output_prompt="{question}", output="completion", stop="\n")
    assert [role for role, _ in told(found)] == ["user", "assistant", "user"]
    assert (found.output, list(found.stop)) == (job_pb2.OUTPUT_SHAPE_COMPLETION, ["\n"])
    assert spec(template="{topic}", json_schema={"type": "string"}).json_schema == (
        '{"type": "string"}'
    )
    assert spec(template="{topic}", grammar='root ::= "a"').gbnf == 'root ::= "a"'
    assert list(spec(template="{topic}", drop=[]).drop) == []
    assert spec(template="{topic}", window=1024).context_length == 1024


@pytest.mark.parametrize(
    ("report", "keys", "instruct", "field"),
    [
        (RECORDS, {"template": "{a}", "context_length": 65_536}, True, "context_length"),
        (RECORDS, {"template": "{question}", "system": "x"}, False, "chat"),
        (CHATS, {}, False, "chat"),
        (RECORDS, {"template": "{question}", "system": "x", "output": "completion"}, True,
         "output"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_base_or_the_data(
    report: PromptsReport, keys: dict[str, object], instruct: bool, field: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        spec(report, instruct=instruct, **keys)
    assert caught.value.field == f"generate.{field}"
    assert caught.value.fix


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("  tempalte: x", "teach.yaml:5: unknown key `generate.tempalte`, did you mean "
         "`template`?"),
        ("  template: '{a'", "teach.yaml:2: the template '{a' cannot be used."),
        ("  template: x\n  messages: [{role: user, content: y}]",
         "teach.yaml:2: give either `template` or `messages`."),
        ("  messages:\n    - {role: robot, content: y}",
         "teach.yaml:6: `generate.messages[0].role` is 'robot'"),
        ("  messages:\n    - {role: user, contnet: y}", "did you mean `content`?"),
        ("  messages: [{role: assistant, content: y}]", "the order of `messages` is"),
        ("  answers: 4", "`answers` are all the same at temperature 0"),
        ("  drop: [empty]", "`generate.drop` is"),
        ("  grammar: x\n  json_schema: {}", "give either `grammar` or `json_schema`."),
        ("  chat: false\n  system: x", "`system` goes with a chat"),
    ],
)  # fmt: skip
def test_every_mistake_is_named_with_its_line(tmp_path: Path, lines: str, said: str) -> None:
    path = tmp_path / "teach.yaml"
    path.write_text(f"name: teach\ngenerate:\n  base: b\n  dataset: d\n{lines}\n")
    with pytest.raises(InvalidRequest) as caught:
        load_job_file(path)
    assert said in caught.value.what


def test_a_job_does_one_thing(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="give either `train` or `generate`"):
        parse_job({"name": "nothing"})
    both = {"train": {"base": "b", "dataset": "d", "steps": 1}, "generate": {"base": "b",
            "dataset": "d"}}  # fmt: skip
    with pytest.raises(InvalidRequest, match="give either `train` or `generate`"):
        parse_job({"name": "both", **both})
