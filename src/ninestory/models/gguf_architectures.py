"""Expected tensors and shapes of each supported GGUF architecture, as tables from llama.cpp's graphs.

`required` must be there with exactly that shape, `optional` may be there. Checked in the tests by loading a file made
from each table. Names: gguf.constants.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Sizes:
    """Sizes that determine a table. `head`: key size of a head; `value`: its value size."""

    layers: int
    width: int
    ffn: int
    heads: int
    kv_heads: int
    head: int
    value: int
    vocabulary: int
    context: int
    token_types: int


@dataclass
class Expected:
    required: dict[str, Shape] = field(default_factory=dict)
    optional: dict[str, Shape] = field(default_factory=dict)

    def need(self, name: str, *shape: int, bias: bool = False) -> None:
        self.required[f"{name}.weight"] = shape
        if bias:
            self.required[f"{name}.bias"] = shape[:1]

    def allow(self, name: str, *shape: int) -> None:
        self.optional[name] = shape


def _ends(s: Sizes, *, bias: bool = False) -> Expected:
    """Tensors outside the blocks: embedding, final norm, and a head that may be tied."""
    expected = Expected()
    expected.need("token_embd", s.vocabulary, s.width)
    expected.need("output_norm", s.width, bias=bias)
    expected.allow("output.weight", s.vocabulary, s.width)
    return expected


def _attention(e: Expected, block: str, s: Sizes, *, bias: str = "", normed: bool = False) -> None:
    """Separate query, key and value; `bias` names those of q, k, v, o that must have one."""
    rows = {"q": s.heads * s.head, "k": s.kv_heads * s.head, "v": s.kv_heads * s.value}
    for part, count in rows.items():
        e.need(f"{block}.attn_{part}", count, s.width, bias=part in bias)
        if part not in bias:
            e.allow(f"{block}.attn_{part}.bias", count)
    e.need(f"{block}.attn_output", s.width, s.heads * s.value, bias="o" in bias)
    if "o" not in bias:
        e.allow(f"{block}.attn_output.bias", s.width)
    if normed:
        e.need(f"{block}.attn_q_norm", s.head)
        e.need(f"{block}.attn_k_norm", s.head)


def _fused(e: Expected, block: str, s: Sizes, *, bias: bool) -> None:
    """Fused query, key and value in one matrix."""
    e.need(f"{block}.attn_qkv", s.width + 2 * s.kv_heads * s.head, s.width, bias=bias)
    e.need(f"{block}.attn_output", s.width, s.width, bias=bias)


def _gated(e: Expected, block: str, s: Sizes) -> None:
    e.need(f"{block}.ffn_gate", s.ffn, s.width)
    e.need(f"{block}.ffn_up", s.ffn, s.width)
    e.need(f"{block}.ffn_down", s.width, s.ffn)


def _plain(e: Expected, block: str, s: Sizes, *, bias: bool) -> None:
    e.need(f"{block}.ffn_up", s.ffn, s.width, bias=bias)
    e.need(f"{block}.ffn_down", s.width, s.ffn, bias=bias)


def _llama(s: Sizes, *, bias: str = "", normed: bool = False) -> Expected:
    e = _ends(s)
    e.allow("rope_freqs.weight", s.head // 2)
    for block in _blocks(s):
        e.need(f"{block}.attn_norm", s.width)
        _attention(e, block, s, bias=bias, normed=normed)
        e.need(f"{block}.ffn_norm", s.width)
        _gated(e, block, s)
        e.allow(f"{block}.ffn_gate.bias", s.ffn)
        e.allow(f"{block}.ffn_up.bias", s.ffn)
        e.allow(f"{block}.ffn_down.bias", s.width)
    return e


def _gemma3(s: Sizes) -> Expected:
    e = _ends(s)
    for block in _blocks(s):
        for norm in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
            e.need(f"{block}.{norm}", s.width)
        _attention(e, block, s, normed=True)
        _gated(e, block, s)
    return e


def _phi2(s: Sizes) -> Expected:
    e = _ends(s, bias=True)
    e.need("output", s.vocabulary, s.width, bias=True)
    for block in _blocks(s):
        e.need(f"{block}.attn_norm", s.width, bias=True)
        _plain(e, block, s, bias=True)
    return e


def _phi2_fused(s: Sizes) -> Expected:
    e = _phi2(s)
    for block in _blocks(s):
        _fused(e, block, s, bias=True)
    return e


def _phi2_split(s: Sizes) -> Expected:
    e = _phi2(s)
    for block in _blocks(s):
        _attention(e, block, s, bias="qkvo")
    return e


def _bloom(s: Sizes) -> Expected:
    e = _ends(s, bias=True)
    e.need("token_embd_norm", s.width, bias=True)
    for block in _blocks(s):
        e.need(f"{block}.attn_norm", s.width, bias=True)
        _fused(e, block, s, bias=True)
        e.need(f"{block}.ffn_norm", s.width, bias=True)
        _plain(e, block, s, bias=True)
    return e


def _falcon(s: Sizes) -> Expected:
    e = _ends(s, bias=True)
    for block in _blocks(s):
        e.need(f"{block}.attn_norm", s.width, bias=True)
        e.allow(f"{block}.attn_norm_2.weight", s.width)
        e.allow(f"{block}.attn_norm_2.bias", s.width)
        _fused(e, block, s, bias=False)
        _plain(e, block, s, bias=False)
    return e


def _bert(s: Sizes) -> Expected:
    e = Expected()
    e.need("token_embd", s.vocabulary, s.width)
    e.need("position_embd", s.context, s.width)
    e.need("token_types", s.token_types, s.width)
    e.need("token_embd_norm", s.width, bias=True)
    e.allow("cls.weight", s.width, s.width)
    e.allow("cls.bias", s.width)
    e.allow("cls.output.weight", 1, s.width)  # a reranker's score
    e.allow("cls.output.bias", 1)
    for block in _blocks(s):
        _attention(e, block, s, bias="qkvo")
        e.need(f"{block}.attn_output_norm", s.width, bias=True)
        _plain(e, block, s, bias=True)
        e.need(f"{block}.layer_output_norm", s.width, bias=True)
    return e


def _blocks(s: Sizes) -> list[str]:
    return [f"blk.{i}" for i in range(s.layers)]


# Each architecture's forms: a file must be of one of them.
TABLES: dict[str, list[Callable[[Sizes], Expected]]] = {
    "llama": [_llama],
    "qwen2": [lambda s: _llama(s, bias="qkv")],
    "qwen3": [lambda s: _llama(s, normed=True)],
    "gemma3": [_gemma3],
    "phi2": [_phi2_fused, _phi2_split],
    "bloom": [_bloom],
    "falcon": [_falcon],
    "bert": [_bert],
}
