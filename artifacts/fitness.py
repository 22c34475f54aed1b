"""What a GGUF file from elsewhere is good for, said when it is imported and not when a job fails.

llama.cpp serves more types and architectures than can be trained on: such a file is accepted, with
what it cannot do.
"""

from artifacts.base_model import BaseModel

# llama.cpp's names of the families that are trained (artifacts/convert/families.py).
ARCHITECTURES = ("gemma3", "qwen2", "qwen3", "llama")
# The types of matrices that are trained on, and that the engines of our own compute with.
TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "I8")


def warnings(model: BaseModel) -> list[str]:
    """Sentences; none for a file that trains as well as it serves."""
    if model.architecture not in ARCHITECTURES:
        return [
            f"Models of architecture {model.architecture} are served by llama.cpp where it knows "
            f"them, and not trained: {', '.join(ARCHITECTURES)} are."
        ]
    others = [tensor for tensor in model.tensors.values() if tensor.type not in TYPES]
    if not others:
        return []
    return [
        f"It is served, and cannot be trained on: {others[0].name} has the type {others[0].type}, "
        f"as {len(others)} of {len(model.tensors)} tensors have such types. To train, import the "
        "original Hugging Face folder, or the model's Q8_0 file."
    ]
