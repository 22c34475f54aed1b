import pytest

from agent.quality.scripts import script_share, script_shares


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("Good morning!", "LATIN"),
        ("Ｇｏｏｄ", "LATIN"),
        ("Grüße, ça va?", "LATIN"),
        ("नमस्ते दुनिया", "DEVANAGARI"),
        ("வணக்கம்", "TAMIL"),
        ("你好，世界", "HAN"),
        ("Здравствуй", "CYRILLIC"),
        ("Γειά σου", "GREEK"),
        ("مرحبا", "ARABIC"),
        ("안녕하세요", "HANGUL"),
        ("สวัสดี", "THAI"),
    ],
)
def test_a_text_in_one_script(text: str, script: str) -> None:
    assert script_shares(text) == {script: 1.0}


def test_mixed_text_is_divided_by_letters() -> None:
    assert script_shares("abc你") == {"LATIN": 0.75, "HAN": 0.25}
    assert script_share("abc你", "HAN") == 0.25
    assert script_share("abc你", "TAMIL") == 0.0


@pytest.mark.parametrize("text", ["", "123, 4.5!", "🙂 → €", "\n\t"])
def test_what_belongs_to_every_script_counts_for_none(text: str) -> None:
    assert script_shares(text) == {}


def test_a_combining_accent_is_no_script_of_its_own() -> None:
    assert script_shares("e\u0301") == {"LATIN": 1.0}
