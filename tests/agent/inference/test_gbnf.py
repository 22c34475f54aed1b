"""What is wrong with a grammar is told with its place; what would end llama.cpp is refused."""

import pytest

from agent.inference import gbnf
from protos.errors import InvalidRequest


@pytest.mark.parametrize(
    "text",
    [
        'root ::= "a"',
        'root ::= "a" | ( "b" # a remark\n | "c" )\n# the end',
        r'root ::= [^"\\\x7F\x00-\x1F]* "\u00e9\U0001F600" .',
        "root ::= item{2,5} item{3} item{0,} item? item* item+\r\nitem ::= [a-z]",
        'root ::= expr\nexpr ::= term ("+" expr)?\nterm ::= [0-9]+ | "(" expr ")"',
        'root ::= | "a"',
        'root ::= empty "x" root | "y"\nempty ::= ""',
    ],
)
def test_a_grammar_that_is_one(text: str) -> None:
    gbnf.check(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "It has no rule 'root'"),
        ('start ::= "a"', "It has no rule 'root'"),
        ('root ::= "a', "Line 1, column 10: expected a text with its end quote"),
        (r'root ::= "\q"', "Line 1, column 10: expected a text with its end quote"),
        ('root ::= ["a"', "Line 1, column 10: expected a class"),
        ('root ::= ("a"\n other ::= "b"', "Line 2, column 8: expected a text, a class"),
        ('root ::= ("a"', "Line 1, column 14: expected )"),
        ('root ::= "a")', "Line 1, column 13: expected the end of the rule"),
        ('root := "a"', "Line 1, column 6: expected ::="),
        ("root ::= other", "Line 1, column 10: there is no rule other"),
        ("root ::= *", "Line 1, column 10: there is no item before *"),
        ('root ::= "a"*?', "Line 1, column 14: there is no item before ?"),
        ('root ::= "a"\nroot ::= "b"', "Line 2, column 1: the rule root is there twice"),
        # Each of these ends llama.cpp, or takes all memory.
        ('root ::= "a"{3,1}', "Line 1, column 13: 3 is more than 1"),
        ('root ::= "a"{99999}', "more than 1000 repetitions"),
        ('root ::= ("a"{1000}){1000}', "1001000 elements"),
        (f'root ::= {"(" * 100}"a"{")" * 100}', "more than 64 parentheses"),
        ('root ::= root "a" | "b"', "A rule begins with itself (root)"),
        ('root ::= a\na ::= ""? b\nb ::= a "x"', "A rule begins with itself"),
        ('root ::= ("a"?)*', "what may be empty is repeated without end"),
        ("root ::= \0", "NUL"),
        (f'root ::= "{"a" * gbnf.LIMIT_BYTES}"', "bytes"),
    ],
)
def test_a_grammar_that_is_none_says_where_and_why(text: str, why: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        gbnf.check(text)
    assert raised.value.reason == "INVALID_GRAMMAR"
    assert why in raised.value.why
