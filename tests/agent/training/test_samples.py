"""The tokens file and the order in which it is trained on."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from agent.training import token_file
from agent.training.samples import Samples, TokenSample
from agent.training.token_file import Example, Totals

KEY = token_file.key_of("sha256:b", "sha256:d", 64)
EXAMPLES = [
    Example([2, 10 + n, *range(20, 21 + n)], [False, False, *[True] * (n + 1)]) for n in range(7)
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    target = tmp_path / "tokens.bin"
    token_file.write(target, KEY, [[example] for example in EXAMPLES])
    return target


def test_what_was_written_is_read(path: Path) -> None:
    totals = token_file.read_totals(path, KEY)
    assert totals == Totals(samples=7, examples=7, tokens=sum(3 + n for n in range(7)), labelled=28)
    samples = Samples(path, totals, seed=0)
    seen = set()
    for number in range(7):
        (sample,) = samples.at(number)
        expected = EXAMPLES[int(sample.tokens[1]) - 10]
        seen.add(int(sample.tokens[1]))
        assert sample.tokens.tolist() == expected.tokens
        assert sample.labelled.tolist() == [
            place for place, is_label in enumerate(expected.labelled) if is_label
        ]
    assert len(seen) == 7


def number_of(samples: Samples, number: int) -> int:
    """Which of the examples it is."""
    (example,) = samples.at(number)
    return int(example.tokens[1]) - 10


def test_the_examples_of_a_sample_stay_together(tmp_path: Path) -> None:
    """In one step, and on one side of the split."""
    path = tmp_path / "tokens.bin"
    lines = [EXAMPLES[:1], EXAMPLES[1:4], EXAMPLES[4:5], EXAMPLES[5:]]
    assert token_file.write(path, KEY, lines) == token_file.read_totals(path, KEY)
    totals = token_file.read_totals(path, KEY)
    assert totals == Totals(samples=4, examples=7, tokens=42, labelled=28)
    assert token_file.longest(path, totals) == 9
    samples = Samples(path, totals, seed=3, held_out=2)

    def line(examples: Sequence[TokenSample]) -> tuple[int, ...]:
        return tuple(int(example.tokens[1]) - 10 for example in examples)

    held_out = {line(samples.held_out(number)) for number in range(2)}
    trained = {line(samples.at(number)) for number in range(20)}
    assert held_out | trained == {(0,), (1, 2, 3), (4,), (5, 6)}
    assert (len(held_out), len(trained)) == (samples.held_out_count, samples.trained_count)
    labels = sum(n + 1 for numbers in trained for n in numbers)
    assert samples.trained_labels == labels


def test_each_pass_has_every_sample_in_its_own_order(path: Path) -> None:
    totals = token_file.read_totals(path, KEY)
    assert totals is not None
    samples = Samples(path, totals, seed=1)

    def order(first: int) -> list[int]:
        return [number_of(samples, first + place) for place in range(7)]

    orders = [order(7 * number) for number in range(4)]
    assert all(sorted(found) == list(range(7)) for found in orders)
    assert len({tuple(found) for found in orders}) > 1
    # A later process that starts in the third pass sees the same.
    assert [number_of(Samples(path, totals, 1), 14)] == orders[2][:1]
    assert orders[0] != [number_of(Samples(path, totals, 2), n) for n in range(7)]


def test_the_file_of_another_dataset_is_not_taken(path: Path) -> None:
    other = token_file.key_of("sha256:b", "sha256:d", 65)
    assert token_file.read_totals(path, other) is None
    assert token_file.read_totals(path.with_name("missing"), KEY) is None
    path.write_bytes(b"nftokens")
    assert token_file.read_totals(path, KEY) is None


def test_a_file_that_was_cut_is_noticed(path: Path) -> None:
    totals = token_file.read_totals(path, KEY)
    assert totals is not None
    path.write_bytes(path.read_bytes()[:-4])
    # The next attempt makes it anew, instead of failing like this one.
    assert token_file.read_totals(path, KEY) is None
    with pytest.raises(ValueError, match="is damaged"):
        Samples(path, totals, seed=0)


def test_the_largest_token_and_the_smallest(tmp_path: Path) -> None:
    target = tmp_path / "tokens.bin"
    totals = token_file.write(target, KEY, [[Example([0, 0, 262_207], [False, True, True])]])
    (sample,) = Samples(target, totals, seed=0).at(0)
    assert sample.tokens.tolist() == [0, 0, 262_207]
    assert torch.equal(sample.labelled, torch.tensor([1, 2]))
