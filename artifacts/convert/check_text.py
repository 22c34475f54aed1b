"""What a tokenizer is tried on: many scripts, and what text is made of besides words.

All of it is composed (NFC): what llama.cpp does not compose is a warning of the conversion, and not
a fault of it.
"""

CHECK_TEXTS = (
    "The quick brown fox jumps over the lazy dog; it's 7 o'clock, they'll say, we've 1234567.89.",
    "Größe, façade, naïve, Ærøskøbing, İstanbul, Xin chào thế giới.",
    "नमस्ते दुनिया, आप कैसे हैं? मेरा नाम पिको है।",
    "வணக்கம் உலகம், எப்படி இருக்கிறீர்கள்?",
    "ನಮಸ್ಕಾರ ಜಗತ್ತು, ನೀವು ಹೇಗಿದ್ದೀರಿ?",
    "মেলা দেখতে যাই, চলো।",
    "مرحبا بالعالم، كيف حالك اليوم؟ ١٢٣",
    "שלום עולם, מה שלומך?",
    "你好,世界!今天天气怎么样?我叫皮可。",
    "こんにちは、世界。カタカナもあります。",
    "안녕하세요 세계, 잘 지내세요?",
    "สวัสดีชาวโลก สบายดีไหม",
    "Привет, мир! Как дела сегодня?",
    "Γειά σου Κόσμε, τι κάνεις;",
    "ሰላም ልዑል፣ እንዴት ነህ?",
    "გამარჯობა, Բարեւ, ជំរាបសួរ, 𒀀𒁀",
    "😀 🚀 👩‍👩‍👧 🧑🏽‍🚀 🏳️‍🌈 🇮🇳 — “quotes” … €½ ∑∞≠",
    "q̃x̄ z̧̈ combining marks that compose to nothing",
    "def add(a, b):\n\treturn a + b  # tabs\tand  double  spaces\n\n\nprint(add(1, 23))\r\n",
    "  leading,   inner    and trailing spaces   ",
    "\n\n\nlines\n \n before and after\n\n",
    "null-ish \x01\x02\x1b[0m\x7f controls, \u200bzero width, \u00a0no break, \ufeffmark",
    "",
)
