"""llama.cpp's own tokenizer as the judge of ours: GGUF files of a vocabulary, and a child process that reads them.

A child, because a vocabulary that llama.cpp does not like aborts the process.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

WIDTH = 32


def write_vocabulary(path: Path, metadata: Mapping[str, Any]) -> Path:
    """A LLaMA of one layer whose tokenizer is `metadata` (keys `tokenizer.…`)."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    for key, value in metadata.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_string(key, value)
    square = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    shapes: dict[str, tuple[int, ...]] = {f"blk.0.{name}.weight": (WIDTH, WIDTH) for name in square}
    shapes |= {f"{name}.weight": (WIDTH,) for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm")}
    shapes["token_embd.weight"] = (len(metadata["tokenizer.ggml.tokens"]), WIDTH)
    for name, shape in shapes.items():
        writer.add_tensor(name, np.zeros(shape, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def llamacpp_ids(files: Sequence[Path], texts: Sequence[str]) -> list[list[list[int]]]:
    """The ids of each text by each file's vocabulary; no special tokens are added or looked for."""
    work = json.dumps({"files": [str(file) for file in files], "texts": texts})
    done = subprocess.run([sys.executable, __file__], input=work, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    answer: list[list[list[int]]] = json.loads(done.stdout)
    return answer


class _Parameters(ctypes.Structure):
    """llama.cpp's parameters of a model, taken and given back unread; the true struct is smaller."""

    _fields_ = [("content", ctypes.c_uint8 * 512)]


def _tokenize(files: list[str], texts: list[str]) -> list[list[list[int]]]:
    import xllamacpp

    library = ctypes.CDLL(xllamacpp.xllamacpp.__file__)
    quiet = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
    library.llama_log_set(quiet, None)
    library.llama_model_default_params.restype = _Parameters
    library.llama_model_load_from_file.argtypes = [ctypes.c_char_p, _Parameters]
    library.llama_model_load_from_file.restype = ctypes.c_void_p
    library.llama_model_get_vocab.argtypes = [ctypes.c_void_p]
    library.llama_model_get_vocab.restype = ctypes.c_void_p
    # vocabulary, text, its bytes, ids, their number, add special tokens, parse special tokens
    library.llama_tokenize.argtypes = [
        ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32, ctypes.c_void_p, ctypes.c_int32, ctypes.c_bool, ctypes.c_bool,
    ]  # fmt: skip
    answer = []
    for file in files:
        model = library.llama_model_load_from_file(file.encode(), library.llama_model_default_params())
        assert model, file
        vocabulary = library.llama_model_get_vocab(model)
        rows = []
        for text in texts:
            raw = text.encode()
            ids = (ctypes.c_int32 * (len(raw) + 8))()
            count = library.llama_tokenize(vocabulary, raw, len(raw), ids, len(ids), False, False)
            assert count >= 0
            rows.append(list(ids[:count]))
        answer.append(rows)
    return answer


if __name__ == "__main__":
    print(json.dumps(_tokenize(**json.load(sys.stdin))))
