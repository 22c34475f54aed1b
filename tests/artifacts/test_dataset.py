"""Datasets: what a user reads when a line is wrong, and files made to hurt."""

import io
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from artifacts import dataset, dataset_file
from artifacts.dataset import (
    AlpacaSample,
    ChatSample,
    CompletionSample,
    Message,
    Shape,
    TextSample,
)
from protos.errors import InvalidDataset, InvalidRequest, NotFound

CHAT = {
    "messages": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Ahoy"},
    ]
}
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes lines (objects become JSON, texts stay as they are) to persona.jsonl."""

    def write(*lines: object) -> Path:
        path = tmp_path / "persona.jsonl"
        texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
        path.write_text("".join(f"{text}\n" for text in texts), "utf-8")
        return path

    return write


def problem_of(path: Path) -> str:
    with pytest.raises(InvalidDataset) as caught:
        dataset.check(path)
    return str(caught.value)


def turns(*roles: str) -> dict[str, object]:
    return {"messages": [{"role": role, "content": "x"} for role in roles]}


@pytest.mark.parametrize(
    ("line", "shape", "sample"),
    [
        (
            CHAT,
            Shape.CHAT,
            ChatSample(1, (Message("user", "Hi"), Message("assistant", "Ahoy"))),
        ),
        (
            {"instruction": "Add", "input": "1 1", "output": "2"},
            Shape.ALPACA,
            AlpacaSample(1, "Add", "1 1", "2"),
        ),
        ({"instruction": "Sing", "output": "La"}, Shape.ALPACA, AlpacaSample(1, "Sing", "", "La")),
        ({"prompt": "A", "completion": "B"}, Shape.COMPLETION, CompletionSample(1, "A", "B")),
        ({"text": "Grüße 🌍"}, Shape.TEXT, TextSample(1, "Grüße 🌍")),
    ],
)
def test_each_shape_is_recognised(write, line, shape, sample) -> None:
    path = write(line)
    assert dataset.check(path).shape is shape
    assert list(dataset.read(path)) == [sample]


def test_the_report_counts_samples_and_characters(write) -> None:
    report = dataset.check(write(CHAT, "", turns("system", "user", "assistant")))
    assert (report.samples, report.characters, report.warnings) == (2, 9, ())


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ('{"text": "a"', "persona.jsonl:2: broken JSON at column 13: Expecting ',' delimiter"),
        ('{"text": "a"},', "the line ends with a comma. Remove it"),
        ("[", "this is JSON over several lines"),
        ('[{"text": "a"}]', "the line is a JSON array"),
        ('"text"', "not a JSON object"),
        ("{}", "the object is empty. Fill it in or remove the line."),
        ({"quest": "a"}, 'the keys "quest" are no known shape. Use one of:'),
        ({"conversations": []}, 'ShareGPT shape. Rename "conversations" to "messages"'),
        ('{"text": "a", "text": "b"}', 'the key "text" is there twice. Keep one.'),
        (r'{"text": "\ud83d"}', '"text" has half a character'),
        ({"text": "\ud83d\nfoo", "x" * 500: 1}, 'x…" does not belong beside "text". Remove it.'),
        ({"text": 7}, '"text" must be a text in quotes, not a number.'),
        ({"text": None}, '"text" must be a text in quotes, not null.'),
        ({"text": " \n"}, 'there is no text ("text"). Fill it in or remove the line.'),
        ({"prompt": "a"}, 'the key "completion" is missing. Add it.'),
        ({"prompt": "a", "completion": ""}, 'the answer is empty ("completion"). Fill it in'),
        ({"instruction": "a", "output": " "}, 'the answer is empty ("output").'),
        ({"instruction": "a", "outptu": "b"}, 'the key "outptu" does not belong beside'),
        ({"instruction": "a", "outptu": "b"}, 'Did you mean "output"?'),
        ({**CHAT, "id": 1}, 'the key "id" does not belong beside "messages". Remove it.'),
        ({"messages": []}, '"messages" must be a list with at least a user and an assistant'),
        ({"messages": ["hi"]}, "message 1 must be an object"),
        ({"messages": [{"role": "user"}]}, 'message 1: the key "content" is missing. Add it.'),
        (
            {"messages": [{"role": "user", "content": ["a"]}]},
            'message 1: "content" must be a text in quotes, not a list.',
        ),
        (
            turns("user", "model"),
            'message 2: the role "model" is unknown. Did you mean "assistant"?',
        ),
        (turns("Human"), 'the role "Human" is unknown. Did you mean "user"?'),
        (turns("tool"), 'the role "tool" is unknown. Use system, user or assistant.'),
        (turns("user"), "there is no assistant message, so there is nothing to learn."),
        (turns("assistant"), "message 1 is from the assistant, but the user's turn is next."),
        (turns("user", "user", "assistant"), "message 2 is from the user, but the assistant's"),
        (turns("user", "system", "assistant"), "message 2 is from the system"),
        (turns("system", "assistant"), "message 2 is from the assistant, but the user's turn"),
        (turns("user", "assistant", "user"), "the last message is not the assistant's."),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]},
            "message 2: the answer is empty. Fill it in or remove the sample.",
        ),
    ],
)
def test_a_wrong_line_is_named_with_what_to_do(write, line, text) -> None:
    said = problem_of(write(CHAT, line))
    assert said.startswith("persona.jsonl:2: ")
    assert text in said
    assert len(said) < 300
    assert said.isprintable()


def test_json_beyond_any_use_is_a_problem_like_others(write) -> None:
    assert "persona.jsonl:1: the JSON has a number or a nesting" in problem_of(
        write("[" * 100_000, '{"text": ' + "9" * 10_000 + "}")
    )


def test_shapes_do_not_mix(write) -> None:
    assert problem_of(write(CHAT, CHAT, {"text": "a"})) == (
        "persona.jsonl:3: this sample is text, but line 1 is chat. "
        "Keep one shape in a file: split the file, or rewrite the sample."
    )


def test_twenty_problems_are_shown_and_the_rest_is_counted(write) -> None:
    said = problem_of(write(*[{"text": ""}] * 30)).splitlines()
    assert said[0] == "persona.jsonl has 30 problems:"
    assert said[20].startswith("persona.jsonl:20: ")
    assert said[21:] == ["… and 10 more."]


def test_repeats_are_a_warning(write) -> None:
    report = dataset.check(write({"text": "a"}, {"text": "b"}, '{"text":"a"}'))
    assert report.samples == 3
    assert report.warnings == ("persona.jsonl:3: the same sample as line 1: it will weigh twice.",)


@pytest.mark.parametrize("content", [b"", b"\n \r\n\n"])
def test_an_empty_file_has_no_samples(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_bytes(content)
    assert problem_of(path) == (
        "empty.jsonl has no samples. The file is empty. Write one JSON object in each line."
    )


def test_what_editors_on_windows_write(tmp_path: Path) -> None:
    path = tmp_path / "w.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n{"text": "b"}\r\n')
    assert [sample.text for sample in dataset.read(path)] == ["a", "b"]
    path.write_text('{"text": "a"}\n', "utf-16")
    assert "It is UTF-16 text. Save it as UTF-8." in problem_of(path)
    path.write_bytes(b'{"text": "caf\xe9"}\n')
    assert problem_of(path) == (
        "w.jsonl:1: byte 14 of the line (0xe9) is not UTF-8. Save the file as UTF-8."
    )


def test_what_is_no_file_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="There is no file"):
        dataset.check(tmp_path / "nowhere.jsonl")
    with pytest.raises(InvalidRequest, match="no regular file"):
        dataset.check(tmp_path)


def test_a_device_names_the_dataset_as_the_user_does(write) -> None:
    path = write({"text": ""})
    with pytest.raises(InvalidDataset, match=r"^persona:1: there is no text"):
        dataset.check(path, name="persona")
    with pytest.raises(InvalidDataset, match=r"^persona:1: there is no text"):
        list(dataset.read(path, name="persona"))


def test_reading_stops_at_the_first_bad_line(write) -> None:
    samples = dataset.read(write({"text": "a"}, {"text": ""}, {"text": "c"}))
    assert next(samples) == TextSample(1, "a")
    with pytest.raises(InvalidDataset, match=r"persona\.jsonl:2: there is no text"):
        next(samples)


# --- compressed


def test_compressed_reads_the_same_and_is_deterministic(write, tmp_path: Path) -> None:
    path = write(*({"text": f"line {number}"} for number in range(5_000)))
    packed, again = tmp_path / "a.zst", tmp_path / "b.zst"
    dataset.compress(path, packed)
    dataset.compress(packed, again)
    assert packed.read_bytes() == again.read_bytes()
    assert packed.stat().st_size < path.stat().st_size / 5
    assert list(dataset.read(packed)) == list(dataset.read(path))
    assert zstandard.decompress(packed.read_bytes()) == path.read_bytes()


@pytest.mark.parametrize("left_bytes", [3, 5, 12, 40, -8, -5])
def test_a_cut_frame_is_noticed(write, tmp_path: Path, left_bytes: int) -> None:
    """The last four bytes are the checksum: without them the text is still whole."""
    path = write(*({"text": f"line {number}"} for number in range(50_000)))
    packed = tmp_path / "cut.zst"
    dataset.compress(path, packed)
    packed.write_bytes(packed.read_bytes()[:left_bytes])
    problem_of(packed)


def test_a_cut_frame_is_not_compressed_anew(write, tmp_path: Path) -> None:
    packed, again = tmp_path / "cut.zst", tmp_path / "again.zst"
    dataset.compress(write(*({"text": f"line {number}"} for number in range(50_000))), packed)
    packed.write_bytes(packed.read_bytes()[:-8])
    with pytest.raises(InvalidDataset, match="cut off: the text ends early"):
        dataset.compress(packed, again)
    assert not again.exists()


def test_every_flipped_bit_is_noticed(write, tmp_path: Path) -> None:
    packed = tmp_path / "flip.zst"
    dataset.compress(write(*({"text": f"line {n * n}"} for n in range(200))), packed)
    sound = packed.read_bytes()
    for at in range(0, len(sound), 7):
        packed.write_bytes(sound[:at] + bytes([sound[at] ^ 0x10]) + sound[at + 1 :])
        problem_of(packed)


def test_a_second_frame_is_not_silently_left_out(tmp_path: Path) -> None:
    path = tmp_path / "two.zst"
    frame = zstandard.compress(b'{"text": "a"}\n')
    path.write_bytes(frame + zstandard.compress(b'{"text": "b"}\n'))
    assert "more than its first frame says" in problem_of(path)
    path.write_bytes(frame + b"rubbish")
    assert "damaged or cut off" in problem_of(path)


def test_a_frame_from_a_pipe_is_refused_with_a_way_out(tmp_path: Path) -> None:
    path, packed = tmp_path / "pipe.zst", io.BytesIO()
    zstandard.ZstdCompressor().copy_stream(io.BytesIO(b'{"text": "a"}\n'), packed)
    path.write_bytes(packed.getvalue())
    assert "Compress the file itself (`zstd FILE`), not a pipe" in problem_of(path)


def zeros(size_bytes: int) -> bytes:
    return zstandard.compress(bytes(size_bytes))


def test_bombs_are_refused_before_or_soon_after_they_go_off(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zst"
    huge = zstandard.ZstdCompressor().compressobj(size=1 << 40)
    path.write_bytes(huge.compress(bytes(1 << 20)) + huge.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))
    assert "It holds 1.0 TiB of text. Use at most 1.0 GiB." in problem_of(path)

    path.write_bytes(zeros(256 << 20))
    assert path.stat().st_size < 100_000
    tracemalloc.start()
    assert problem_of(path).startswith("bomb.zst:1: the line is longer than 4.0 MiB.")
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 64 << 20


def test_a_window_that_needs_too_much_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "window.zst"
    wide = zstandard.ZstdCompressionParameters(window_log=27)
    compressor = zstandard.ZstdCompressor(compression_params=wide)
    path.write_bytes(compressor.compress(b'{"text": "a"}\n' * (10 << 20)))
    assert "Frame requires too much memory" in problem_of(path)


def test_the_number_of_lines_is_bounded(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(dataset_file, "MAX_LINES", 100)
    path = tmp_path / "many.jsonl"
    path.write_bytes(b"\n" * 100 + b'{"text": "a"}\n')
    assert "It has more than 100 lines. Split it." in problem_of(path)
