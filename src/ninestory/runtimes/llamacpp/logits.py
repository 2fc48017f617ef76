"""What llama.cpp thinks comes next, for every token of its vocabulary, in its most exact setting."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ninestory.core.errors import NinestoryError, Unsupported
from ninestory.models.gguf_reader import read_gguf
from ninestory.runtimes.llamacpp.library import Library

_NORMAL, _FORCING_BIAS = 1, 1e6


def next_token_logprobs(path: Path, prompts: Sequence[Sequence[int]], vocabulary: int) -> Any:
    """log softmax of the logits behind each prompt: float32 [prompts, vocabulary].

    Keys and values in float32, no flash attention, one thread.

    Raises:
        Unsupported: llama.cpp cannot load the file. NinestoryError: it scored no token.
    """
    import numpy as np

    # A bias drives the library to a letter: it gives no scores when its own choice is a part of a character.
    letter = _letter(path)
    made = np.full((len(prompts), vocabulary), -np.inf, dtype=np.float32)
    longest = max(len(prompt) for prompt in prompts)
    library = Library(path, context=longest + 8, slots=1, threads=1, cache_mb=0, exact=True)
    try:
        for row, prompt in enumerate(prompts):
            body: dict[str, Any] = {"prompt": list(prompt), "n_predict": 1, "n_probs": vocabulary, "stream": False}
            body |= {"logit_bias": [[letter, _FORCING_BIAS]], "temperature": 0.0, "cache_prompt": False}
            for event in library.stream(body, threading.Event()):
                entries = (event["choices"][0]["logprobs"] or {}).get("content")
                if not entries:
                    raise NinestoryError(f"llama.cpp scored no token behind {len(prompt)} tokens.", code="not_scored")
                for token in entries[0]["top_logprobs"]:
                    made[row, token["id"]] = token["logprob"]
    finally:
        library.close()
    return made


def _letter(path: Path) -> int:
    """The id of an ordinary token that is one ASCII letter."""
    metadata = read_gguf(path).metadata
    types = metadata["tokenizer.ggml.token_type"]
    for number, token in enumerate(metadata["tokenizer.ggml.tokens"]):
        if types[number] == _NORMAL and len(token) == 1 and token.isascii() and token.isalpha():
            return number
    raise Unsupported(f"No token of {path.name} is a letter.", param="model")
