"""Makes the demo's base model: ``python -m controller.demo.tiny.make [FOLDER]``.

A Gemma-3-shaped model of 1.2 million parameters (hidden 128, 6 layers of which the last attends
globally, 4 heads, 1 KV head) with its own byte-level BPE of 1,024 entries, trained for about a
minute on the small talk of ``corpus``. FOLDER gets the Hugging Face folder; ``tiny-gemma3.gguf``
beside this script is its Q8_0 form and is what ships, so that the demo can start at once. Run by
hand, in its own process: nothing of nanofleet imports it.
"""

import json
import random
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, PreTrainedTokenizerFast

from artifacts.convert.model import FileType, convert_model
from controller.demo.tiny.corpus import Turn, conversations

TARGET = Path(__file__).with_name("tiny-gemma3.gguf")
VOCABULARY = 1024
STEPS, BATCH, LENGTH = 350, 16, 96
PEAK_LEARNING_RATE = 4e-3
SEED = 7
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
# Gemma 3's form: it has no system turn, so what the system says opens the first user's turn.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% set system = messages[0]['role'] == 'system' %}"
    "{% set prefix = messages[0]['content'] + '\n\n' if system else '' %}"
    "{% for message in (messages[1:] if system else messages) %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate: user, assistant, user, ...') }}"
    "{% endif %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + (prefix if loop.first else '') }}"
    "{{ message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


def rendered(turns: list[Turn]) -> str:
    """A conversation as the chat template writes it."""
    return "<bos>" + "".join(
        f"<start_of_turn>user\n{question}<end_of_turn>\n"
        f"<start_of_turn>model\n{answer}<end_of_turn>\n"
        for question, answer in turns
    )


def make_tokenizer(texts: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def make_config() -> Gemma3TextConfig:
    return Gemma3TextConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=32,
        query_pre_attn_scalar=32,
        sliding_window=512,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )


def train(model: Gemma3ForCausalLM, stream: torch.Tensor) -> float:
    """Next-token training on windows of the stream; the last loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_LEARNING_RATE, total_steps=STEPS, pct_start=0.1
    )
    chance = torch.Generator().manual_seed(SEED)
    loss = torch.zeros(())
    started = time.monotonic()
    for step in range(STEPS):
        starts = torch.randint(0, len(stream) - LENGTH, (BATCH,), generator=chance)
        batch = torch.stack([stream[start : start + LENGTH] for start in starts.tolist()])
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            print(f"step {step:4d}  loss {loss.item():.3f}  {time.monotonic() - started:.0f} s")
    return float(loss.item())


def save(model: Gemma3ForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Writes the Hugging Face folder, chat template included."""
    model.save_pretrained(folder)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
    )
    wrapped.chat_template = CHAT_TEMPLATE
    wrapped.save_pretrained(folder)
    generation = {"bos_token_id": 2, "eos_token_id": [1, 5], "pad_token_id": 0}
    (folder / "generation_config.json").write_text(json.dumps(generation))


def make(folder: Path) -> None:
    torch.manual_seed(SEED)
    chance = random.Random(SEED)
    texts = [rendered(turns) for turns in islice(conversations(chance), 20_000)]
    tokenizer = make_tokenizer(texts[:4000])
    encoded = tokenizer.encode_batch(texts, add_special_tokens=False)
    stream = torch.tensor([token for line in encoded for token in line.ids])
    model = Gemma3ForCausalLM(make_config())
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{parameters:,} parameters, {len(stream):,} tokens of text")
    loss = train(model, stream)
    save(model, tokenizer, folder)
    convert_model(folder, TARGET, FileType.Q8_0)
    print(f"loss {loss:.3f}; wrote {TARGET.name}, {TARGET.stat().st_size:,} bytes")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        make(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            make(Path(temporary))
