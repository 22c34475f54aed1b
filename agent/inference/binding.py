"""The binding to llama.cpp, pinned: its signatures move with every release.

llama-cpp-python declares C functions by hand and follows llama.cpp closely; a struct that grew or
an argument that moved is not an exception but a crash, or wrong numbers. So the version is pinned,
and at start the declarations that we call, and the defaults that the C library fills into the
structs, are compared with what this code was written for.

llama.cpp explains a failure only in its log, so the log's last lines are kept for error messages.
"""

import ctypes
import sys
from collections import deque
from collections.abc import Mapping

import llama_cpp

from protos.errors import WorkerFailed

PINNED = "0.3.36"
_WARNING, _ERROR, _CONTINUED = 3, 4, 5

# Each function that we call, and how many arguments it takes.
_CALLS = {
    "llama_adapter_lora_free": 1,
    "llama_adapter_lora_init": 2,
    "llama_backend_init": 0,
    "llama_batch_free": 1,
    "llama_batch_init": 3,
    "llama_context_default_params": 0,
    "llama_decode": 2,
    "llama_free": 1,
    "llama_get_embeddings_ith": 2,
    "llama_get_logits_ith": 2,
    "llama_get_memory": 1,
    "llama_init_from_model": 2,
    "llama_log_set": 2,
    "llama_memory_seq_pos_min": 2,
    "llama_memory_seq_rm": 4,
    "llama_model_chat_template": 2,
    "llama_model_default_params": 0,
    "llama_model_free": 1,
    "llama_model_get_vocab": 1,
    "llama_model_load_from_file": 2,
    "llama_model_n_ctx_train": 1,
    "llama_model_n_embd": 1,
    "llama_model_n_swa": 1,
    "llama_sampler_accept": 2,
    "llama_sampler_apply": 2,
    "llama_sampler_chain_add": 2,
    "llama_sampler_chain_default_params": 0,
    "llama_sampler_chain_init": 1,
    "llama_sampler_free": 1,
    "llama_sampler_init_dist": 1,
    "llama_sampler_init_grammar": 3,
    "llama_sampler_init_greedy": 0,
    "llama_sampler_init_logit_bias": 3,
    "llama_sampler_init_min_p": 2,
    "llama_sampler_init_penalties": 5,
    "llama_sampler_init_temp": 1,
    "llama_sampler_init_top_k": 1,
    "llama_sampler_init_top_p": 2,
    "llama_sampler_sample": 3,
    "llama_set_abort_callback": 3,
    "llama_set_adapters_lora": 4,
    "llama_set_embeddings": 2,
    "llama_token_to_piece": 6,
    "llama_tokenize": 7,
    "llama_vocab_bos": 1,
    "llama_vocab_eos": 1,
    "llama_vocab_get_add_bos": 1,
    "llama_vocab_get_attr": 2,
    "llama_vocab_get_text": 2,
    "llama_vocab_is_eog": 2,
    "llama_vocab_n_tokens": 1,
}


class LogTail:
    """llama.cpp's last problems; warnings and errors also go to the worker's log (stderr)."""

    def __init__(self, lines: int = 8) -> None:
        self._errors: deque[str] = deque(maxlen=lines)
        # While a cancelled computation ends: llama.cpp calls that a failure, in five lines.
        self.is_muted = False
        self._level = 0

    def add(self, level: int, text: str) -> None:
        """One call of llama.cpp's log; a continuation has the level of what it continues."""
        self._level = self._level if level == _CONTINUED else level
        if self.is_muted:
            return
        if self._level >= _WARNING:
            sys.stderr.write(text)
        if self._level >= _ERROR and text.strip():
            self._errors.append(text.strip())

    def clear(self) -> None:
        self._errors.clear()

    def explanation(self) -> str:
        """Why the last call failed, as one sentence; says so when nothing was logged."""
        if not self._errors:
            return "llama.cpp gave no reason."
        return f"llama.cpp says: {'; '.join(dict.fromkeys(self._errors)).rstrip('.')}."


log = LogTail()


def _keep(level: int, text: bytes | None, _data: object) -> None:
    log.add(level, (text or b"").decode("utf-8", "replace"))


# At module level: C calls it for as long as the process lives.
_callback = llama_cpp.llama_log_callback(_keep)


def start() -> None:
    """Checks the binding and starts the library; raises WorkerFailed. Once in a process is enough,
    more often is harmless."""
    check_version(llama_cpp.__version__)
    check_calls(_CALLS)
    _check_structs()
    llama_cpp.llama_log_set(_callback, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()


def check_version(version: str) -> None:
    if version != PINNED:
        raise _mismatch(f"llama-cpp-python {version} is installed; {PINNED} is needed.")


def check_calls(calls: Mapping[str, int]) -> None:
    for name, arguments in calls.items():
        declared = getattr(getattr(llama_cpp, name, None), "argtypes", None)
        if declared is None or len(declared) != arguments:
            raise _mismatch(f"{name} does not have the {arguments} arguments that it should have.")


def _check_structs() -> None:
    """A struct declared otherwise than the library was compiled shows in its own defaults."""
    context = llama_cpp.llama_context_default_params()
    expected = (2048, 512, 1, llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO, True)
    found = (
        context.n_batch,
        context.n_ubatch,
        context.n_seq_max,
        context.flash_attn_type,
        context.swa_full,
    )
    if found != expected or not llama_cpp.llama_model_default_params().use_extra_bufts:
        raise _mismatch(f"The library's defaults are {found}; {expected} were expected.")


def _mismatch(what: str) -> WorkerFailed:
    return WorkerFailed(
        what,
        why="The binding changes its signatures with each release; another one could crash.",
        fix=f"Run: pip install llama-cpp-python=={PINNED} (and unset LLAMA_CPP_LIB_PATH).",
    )
