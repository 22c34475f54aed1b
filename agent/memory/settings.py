"""The settings of a training that trade memory for speed and change no number beyond rounding."""

from dataclasses import dataclass

# Rows of the vocabulary whose logits exist at a time: 9 MB of float32 at a width of 1,152.
HEAD_ROWS = 2048


@dataclass(frozen=True, slots=True)
class Plan:
    # Deepest decoder layers whose activations are kept instead of recomputed.
    stored_layers: int = 0
    # Rows of the output head that are dequantised at a time.
    chunk_rows: int = HEAD_ROWS
    # Whether short samples share a micro-step.
    packing: bool = False
