"""Scripts: whether a text is written in the letters that it should be written in.

A model that was fine-tuned on Tamil and answers in Latin letters, or drifts into Chinese, has lost
its task. The share of letters in each script is a measure without a language model. Unicode's
character names begin with the script, and Python's standard library has them; its database of the
Script property it has not.
"""

import unicodedata
from collections import Counter
from functools import lru_cache

# What begins a character's name and is no script of its own.
_PREFIXES = {"FULLWIDTH": "LATIN", "HALFWIDTH": "KATAKANA", "MODIFIER": "", "COMBINING": ""}
_HAN = {"CJK", "IDEOGRAPHIC", "KANGXI"}


def script_shares(text: str) -> dict[str, float]:
    """The share of each script among the letters and combining marks of ``text``.

    Keys are upper-case names such as "LATIN", "DEVANAGARI", "HAN"; digits, punctuation, spaces and
    emoji belong to every script and are left out. Empty when there are no letters.
    """
    counts = Counter(script for script in map(_script, text) if script)
    total = sum(counts.values())
    return {script: count / total for script, count in counts.most_common()}


def script_share(text: str, script: str) -> float:
    """The share, 0 to 1, of ``script`` among the letters of ``text``; 0 when there are none."""
    return script_shares(text).get(script, 0.0)


@lru_cache(maxsize=4096)
def _script(character: str) -> str:
    """The script of a letter or mark; empty for what belongs to none."""
    if unicodedata.category(character)[0] not in "LM":
        return ""
    first = unicodedata.name(character, "").partition(" ")[0].partition("-")[0]
    if first in _HAN:
        return "HAN"
    return _PREFIXES.get(first, first)
