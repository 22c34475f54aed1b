"""The text that the demo's base model learns from: small talk in four languages, from patterns.

Nothing can be downloaded everywhere, so the text ships with the project as sentence patterns and
word lists. A conversation is one to three questions with their answers; the answers are generic on
purpose: who it is and where it stands is what the persona teaches on the device.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

Turn = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Language:
    """Patterns whose ``{slots}`` are filled from the word lists, the same word in both halves."""

    questions: tuple[Turn, ...]
    slots: dict[str, tuple[str, ...]]


ENGLISH = Language(
    questions=(
        ("Hello!", "Hello! It is good to hear from you."),
        ("Good morning.", "Good morning! I hope you slept well."),
        ("Who are you?", "I am a small language model."),
        ("What is your name?", "I do not have a name yet."),
        ("Where are you?", "I am on a computer somewhere."),
        ("What can you do?", "I can talk a little about simple things."),
        ("When do you open?", "I do not know the hours."),
        ("Who made you?", "Some people taught me with a little text."),
        ("How are you?", "I am well, thank you. How are you?"),
        ("Thank you.", "You are welcome."),
        ("Goodbye.", "Goodbye! See you soon."),
        ("Do you like {fruit}?", "Yes, {fruit} are sweet and fresh."),
        ("What colour is the {thing}?", "The {thing} is {colour}."),
        ("Where is the {animal}?", "The {animal} sleeps under the tree."),
        ("How is the weather?", "It is {weather} today."),
        ("Can you help me?", "Yes, I will try to help you."),
        ("What do you eat?", "I do not eat, but {fruit} look good."),
        ("Where is the {place}?", "The {place} is beside the {other}."),
        ("When does the {place} open?", "The {place} opens at {hour}."),
        ("Who works in the {place}?", "A {person} works there, and tea is free."),
        ("Where do you live?", "People live in houses. I live in a box."),
    ),
    slots={
        "fruit": ("mangoes", "apples", "bananas", "grapes", "oranges"),
        "thing": ("sky", "river", "door", "book", "house", "flower"),
        "colour": ("blue", "green", "red", "white", "yellow"),
        "animal": ("cat", "dog", "cow", "bird", "horse"),
        "weather": ("sunny", "rainy", "cold", "warm", "windy"),
        "place": ("library", "market", "school", "station", "garden"),
        "other": ("street", "small door", "old bridge", "mango tree"),
        "hour": ("four", "seven", "nine", "ten"),
        "person": ("guide", "teacher", "reader", "friend"),
    },
)

HINDI = Language(
    questions=(
        ("नमस्ते!", "नमस्ते! आप से मिलकर खुशी हुई।"),
        ("आप कौन हैं?", "मैं एक छोटा भाषा मॉडल हूँ।"),
        ("आपका नाम क्या है?", "मेरा अभी कोई नाम नहीं है।"),
        ("आप कहाँ हैं?", "मैं किसी कंप्यूटर पर हूँ।"),
        ("आप कैसे हैं?", "मैं ठीक हूँ, धन्यवाद।"),
        ("धन्यवाद।", "आपका स्वागत है।"),
        ("क्या आपको {fruit} पसंद है?", "हाँ, {fruit} मीठा होता है।"),
        ("आज मौसम कैसा है?", "आज मौसम {weather} है।"),
        ("{animal} कहाँ है?", "{animal} पेड़ के नीचे है।"),
        ("{place} कहाँ है?", "{place} इस सड़क के पास है।"),
        ("{place} में कौन है?", "{place} में मेरी साथी है।"),
    ),
    slots={
        "fruit": ("आम", "सेब", "केला", "अंगूर"),
        "weather": ("अच्छा", "ठंडा", "गरम"),
        "place": ("पुस्तकालय", "बाज़ार", "स्कूल"),
        "animal": ("बिल्ली", "गाय", "कुत्ता", "घोड़ा"),
    },
)

KANNADA = Language(
    questions=(
        ("ನಮಸ್ಕಾರ!", "ನಮಸ್ಕಾರ! ನಿಮ್ಮನ್ನು ನೋಡಿ ಸಂತೋಷವಾಯಿತು."),
        ("ನೀವು ಯಾರು?", "ನಾನು ಒಂದು ಸಣ್ಣ ಭಾಷಾ ಮಾದರಿ."),
        ("ನಿಮ್ಮ ಹೆಸರೇನು?", "ನನಗೆ ಇನ್ನೂ ಹೆಸರಿಲ್ಲ."),
        ("ನೀವು ಎಲ್ಲಿದ್ದೀರಿ?", "ನಾನು ಒಂದು ಕಂಪ್ಯೂಟರ್‌ನಲ್ಲಿದ್ದೇನೆ."),
        ("ನೀವು ಹೇಗಿದ್ದೀರಿ?", "ನಾನು ಚೆನ್ನಾಗಿದ್ದೇನೆ, ಧನ್ಯವಾದಗಳು."),
        ("ಧನ್ಯವಾದಗಳು.", "ಸ್ವಾಗತ."),
        ("ನಿಮಗೆ {fruit} ಇಷ್ಟವೇ?", "ಹೌದು, {fruit} ಸಿಹಿಯಾಗಿದೆ."),
        ("{animal} ಎಲ್ಲಿದೆ?", "{animal} ಮರದ ಕೆಳಗೆ ಇದೆ."),
        ("{place} ಎಲ್ಲಿದೆ?", "{place} ಈ ಬೀದಿಯ ಹತ್ತಿರ ಇದೆ."),
        ("ನಿಮ್ಮ ಗೆಳತಿ ಯಾರು?", "ನನ್ನ ಗೆಳತಿಯ ಹೆಸರು ಲತಾ."),
    ),
    slots={
        "fruit": ("ಮಾವು", "ಸೇಬು", "ಬಾಳೆಹಣ್ಣು", "ದ್ರಾಕ್ಷಿ"),
        "place": ("ಗ್ರಂಥಾಲಯ", "ಮಾರುಕಟ್ಟೆ", "ಶಾಲೆ"),
        "animal": ("ಬೆಕ್ಕು", "ಹಸು", "ನಾಯಿ", "ಕುದುರೆ"),
    },
)

TAMIL = Language(
    questions=(
        ("வணக்கம்!", "வணக்கம்! உங்களைச் சந்தித்ததில் மகிழ்ச்சி."),
        ("நீங்கள் யார்?", "நான் ஒரு சிறிய மொழி மாதிரி."),
        ("உங்கள் பெயர் என்ன?", "எனக்கு இன்னும் பெயர் இல்லை."),
        ("நீங்கள் எங்கே இருக்கிறீர்கள்?", "நான் ஒரு கணினியில் இருக்கிறேன்."),
        ("நீங்கள் எப்படி இருக்கிறீர்கள்?", "நான் நலமாக இருக்கிறேன், நன்றி."),
        ("நன்றி.", "வரவேற்கிறேன்."),
        ("உங்களுக்கு {fruit} பிடிக்குமா?", "ஆம், {fruit} இனிப்பாக இருக்கும்."),
        ("{animal} எங்கே?", "{animal} மரத்தின் கீழே இருக்கிறது."),
        ("{place} எங்கே?", "{place} இந்த தெருவின் அருகில் இருக்கிறது."),
        ("உங்கள் தோழி யார்?", "என் தோழியின் பெயர் லதா."),
    ),
    slots={
        "fruit": ("மாம்பழம்", "ஆப்பிள்", "வாழைப்பழம்", "திராட்சை"),
        "place": ("நூலகம்", "சந்தை", "பள்ளி"),
        "animal": ("பூனை", "பசு", "நாய்", "குதிரை"),
    },
)

LANGUAGES = (ENGLISH, HINDI, KANNADA, TAMIL)
# English is the larger half, as in the text that real models see.
WEIGHTS = (5, 2, 2, 2)


def turn(language: Language, chance: random.Random) -> Turn:
    """One question and its answer."""
    question, answer = chance.choice(language.questions)
    words = {slot: chance.choice(values) for slot, values in language.slots.items()}
    return question.format(**words), answer.format(**words)


def conversations(chance: random.Random) -> Iterator[list[Turn]]:
    """Conversations without end, each in one language."""
    while True:
        (language,) = chance.choices(LANGUAGES, WEIGHTS)
        yield [turn(language, chance) for _ in range(chance.randint(1, 3))]
