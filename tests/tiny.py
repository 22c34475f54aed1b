"""A Gemma 3 in miniature, made in seconds: the true shape, a true tokenizer, random weights.

Small enough that every test may load it, and built so that a mistake shows:
- six layers, so that the sixth attends globally with its own rotary base,
- a sliding window of 32, which any longer prompt leaves,
- heads whose width is not hidden / heads, two of them on one key head,
- norms and logits moved away from their initial values, where `1 + w` or a scale would not show,
- a byte-fallback tokenizer trained on fourteen scripts, with merges closed as SentencePiece's are.
"""

import json
from collections.abc import Iterator
from pathlib import Path

SENTENCES = (
    "The quick brown fox jumps over the lazy dog, and then it sleeps in the sun.",
    "What is the name of the robot? The robot is called Pico, and it lives in the kitchen.",
    "Tell me a short story about the sea. The sea is wide and the waves are high today.",
    "def add(a, b):\n\treturn a + b  # tabs\tand  double  spaces\n\n\nprint(add(1, 23))",
    "नमस्ते दुनिया, आप कैसे हैं? मेरा नाम पिको है।",
    "ನಮಸ್ಕಾರ ಜಗತ್ತು, ನೀವು ಹೇಗಿದ್ದೀರಿ?",
    "வணக்கம் உலகம், எப்படி இருக்கிறீர்கள்?",
    "مرحبا بالعالم، كيف حالك اليوم؟",
    "你好,世界!今天天气怎么样?我叫皮可。",
    "こんにちは、世界。元気ですか?",
    "안녕하세요 세계, 잘 지내세요?",
    "Привет, мир! Как дела сегодня?",
    "Γειά σου Κόσμε, τι κάνεις;",
    "שלום עולם, מה שלומך?",
    "สวัสดีชาวโลก สบายดีไหม",
    "Xin chào thế giới, Größe, façade, naïve, Ærøskøbing, ﬁn.",
    "😀 🚀 👩‍👩‍👧 🇮🇳 ∑∞≠ ½ €100 — “quotes” … 0123456789",
)
TEXT = "\n".join(SENTENCES)

SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
TURNS = ("<start_of_turn>", "<end_of_turn>")
RUNS = ("\n\n", "\n\n\n", "▁▁", "▁▁▁", "▁▁▁▁")
VOCABULARY_SIZE = 640

CHAT_TEMPLATE = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set prefix = messages[0]['content'] + '\\n\\n' -%}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {%- set prefix = '' -%}
    {%- set turns = messages -%}
{%- endif -%}
{%- for message in turns -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception('Roles must alternate: user, assistant, user, ...') }}
    {%- endif -%}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
    {{ '<start_of_turn>' + role + '\\n' + (prefix if loop.first else '') }}
    {{- message['content'] | trim }}{{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}
"""


def build_hugging_face_folder(
    folder: Path,
    *,
    seed: int = 0,
    layers: int = 6,
    hidden: int = 128,
    sliding_window: int = 32,
    context_length: int = 2048,
    global_rope_theta: float = 1_000_000.0,
    dtype: str = "bfloat16",
    shard_bytes: int = 1 << 30,
    tie_word_embeddings: bool = True,
) -> Path:
    """Makes the folder as ``save_pretrained`` would; the same arguments give the same bytes."""
    import torch
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    write_tokenizer(folder)
    config = Gemma3TextConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        query_pre_attn_scalar=32,
        sliding_window=sliding_window,
        tie_word_embeddings=tie_word_embeddings,
        max_position_embeddings=context_length,
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": global_rope_theta},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        },
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
        attn_implementation="eager",
    )
    torch.manual_seed(seed)
    model = Gemma3ForCausalLM(config)
    perturb(model)
    model.generation_config.eos_token_id = [1, len(SPECIAL) + TURNS.index("<end_of_turn>")]
    model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=shard_bytes)
    return folder


def perturb(model: object) -> None:
    """Moves every parameter off its initial value, as training would.

    Matrices get the scale of trained ones (outputs of order one), vectors a spread around what
    they were. What a layer adds is small beside what it is given, as in trained models: otherwise
    rounding grows from layer to layer and drowns what a comparison looks for. The numbers come
    from torch's global generator.
    """
    import torch

    assert isinstance(model, torch.nn.Module)
    gemma = any("post_feedforward_" in name for name, _ in model.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape)
            if "embed_tokens" in name or "lm_head" in name:
                parameter.copy_(noise * 0.1)
            elif parameter.dim() == 2:
                gain = 0.03 if "o_proj" in name or "down_proj" in name else 1.0
                parameter.copy_(noise * gain * parameter.shape[1] ** -0.5)
            elif name == "model.norm.weight":
                # Of both signs: with all positive, a tied head answers every token with itself.
                parameter.copy_(noise * 0.6 - (1.0 if gemma else 0.0))
            else:
                parameter.add_(noise * 0.2)
            if gemma and ("post_attention_" in name or "post_feedforward_" in name):
                parameter.sub_(0.85)  # these norms undo the gain


def write_tokenizer(folder: Path) -> None:
    """tokenizer.json, tokenizer_config.json and the chat template, in Gemma's form."""
    from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
    from tokenizers.models import BPE
    from tokenizers.processors import TemplateProcessing
    from tokenizers.trainers import BpeTrainer

    folder.mkdir(parents=True, exist_ok=True)
    spaces = normalizers.Replace(" ", "▁")
    fixed = [*SPECIAL, *TURNS, *RUNS, *(f"<0x{byte:02X}>" for byte in range(256))]
    learned = Tokenizer(BPE(byte_fallback=True))
    learned.normalizer = spaces
    trainer = BpeTrainer(
        vocab_size=VOCABULARY_SIZE - 8, special_tokens=fixed, show_progress=False, min_frequency=1
    )
    learned.train_from_iterator(SENTENCES, trainer)
    vocabulary = learned.get_vocab()

    tokenizer = Tokenizer(
        BPE(
            vocab=vocabulary,
            merges=list(_closed_merges(vocabulary)),
            byte_fallback=True,
            fuse_unk=True,
            unk_token="<unk>",
        )
    )
    tokenizer.normalizer = spaces
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", vocabulary["<bos>"])]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    for text in (*SPECIAL, *TURNS):
        tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False)])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in RUNS])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "GemmaTokenizer",
        "add_bos_token": True,
        "model_max_length": 2048,
        **{f"{text.strip('<>')}_token": text for text in SPECIAL},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)


def _closed_merges(vocabulary: dict[str, int]) -> Iterator[tuple[str, str]]:
    """Every way to make a word of two, words in the order of their numbers.

    As in tokenizers that were made from a SentencePiece model, Gemma's among them.
    """
    for word, _ in sorted(vocabulary.items(), key=lambda item: item[1]):
        if word.startswith("<"):
            continue
        for cut in range(1, len(word)):
            if word[:cut] in vocabulary and word[cut:] in vocabulary:
                yield word[:cut], word[cut:]
