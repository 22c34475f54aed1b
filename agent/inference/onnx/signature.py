"""The names of the graph's inputs and outputs: what the builder and the engine agree on.

Tensors go by their GGUF names throughout, so a LoRA in GGUF form needs no table.
"""

# (tokens, hidden): the rows of the embedding, scaled as the family does.
EMBEDDED = "embedded"
# (rows): for which tokens of the call logits are wanted.
WANTED = "wanted"
# (1,) and a scalar: the last position that is filled after the call, and how many are.
LAST_POSITION = "last_position"
TOTAL = "total"
# A scalar: how strongly the adapter is worn.
LORA_SCALE = "lora_scale"
# (rows, vocabulary), and (tokens, hidden) after the last norm.
LOGITS = "logits"
HIDDEN = "hidden"

CACHED = ("keys", "values")


def kind(window: int | None) -> str:
    """Layers that look at everything and those with a window may rotate differently."""
    return "everything" if window is None else "window"


def cosines(kind: str) -> str:
    """(positions, half a head), of the layers of this kind."""
    return f"cosines.{kind}"


def sines(kind: str) -> str:
    return f"sines.{kind}"


def past(layer: int, what: str) -> str:
    """(1, key heads, room, head): one of CACHED, to which the call adds in place."""
    return f"past.{layer}.{what}"


def present(layer: int, what: str) -> str:
    return f"present.{layer}.{what}"


def lora_a(matrix: str) -> str:
    """(rank, columns) of the matrix, as GGUF LoRA files call it."""
    return f"{matrix}.lora_a"


def lora_b(matrix: str) -> str:
    """(rows, rank), times alpha / rank."""
    return f"{matrix}.lora_b"
