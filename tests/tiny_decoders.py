"""Tiny causal models of random weights, one a family, for tests of the torch runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

VOCABULARY = 320
GMASK, SOP = VOCABULARY - 4, VOCABULARY - 2  # ChatGLM's marks; ids below `PLAIN` are ordinary tokens in every family
PLAIN, EOS = VOCABULARY - 8, VOCABULARY - 1


def _llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=64, intermediate_size=192, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
        )
    )  # fmt: skip


def _gptj() -> Any:
    from transformers import GPTJConfig, GPTJForCausalLM

    return GPTJForCausalLM(
        GPTJConfig(vocab_size=VOCABULARY, n_embd=64, n_layer=2, n_head=4, rotary_dim=8, n_positions=512)
    )


def _moss() -> Any:
    from ninestory.architectures.moss import MossConfig, MossForCausalLM

    return MossForCausalLM(
        MossConfig(vocab_size=VOCABULARY, n_embd=64, n_layer=2, n_head=4, rotary_dim=8, n_positions=512, wbits=32)
    )


def _bloom(heads: int = 4) -> Any:
    from transformers import BloomConfig, BloomForCausalLM

    return BloomForCausalLM(BloomConfig(vocab_size=VOCABULARY, hidden_size=16 * heads, n_layer=2, n_head=heads))


def _falcon(**changed: Any) -> Any:
    from transformers import FalconConfig, FalconForCausalLM

    return FalconForCausalLM(
        FalconConfig(vocab_size=VOCABULARY, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, **changed)
    )


def _chatglm(**changed: Any) -> Any:
    from ninestory.architectures.chatglm import ChatGLMConfig, ChatGLMForConditionalGeneration

    return ChatGLMForConditionalGeneration(
        ChatGLMConfig(
            vocab_size=VOCABULARY, hidden_size=64, num_layers=2, num_attention_heads=4, inner_hidden_size=192,
            bos_token_id=SOP, eos_token_id=SOP + 1, gmask_token_id=GMASK, mask_token_id=GMASK - 1, **changed,
        )
    )  # fmt: skip


_BUILDERS: dict[str, Callable[[], Any]] = {
    "llama": _llama,
    "gptj": _gptj,
    "moss": _moss,
    "bloom": _bloom,
    "bloom-12-heads": lambda: _bloom(heads=12),
    "falcon": _falcon,
    "falcon-grouped": lambda: _falcon(new_decoder_architecture=True, num_kv_heads=2),
    "falcon-alibi": lambda: _falcon(alibi=True, multi_query=False, parallel_attn=False, bias=True),
    "chatglm": _chatglm,
    "chatglm-prefix": lambda: _chatglm(pre_seq_len=5),
}
FAMILIES = list(_BUILDERS)


def build(family: str, seed: int = 0) -> Any:
    """The family's model, with weights that spread the logits; the same for the same seed."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    model = _BUILDERS[family]()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.15)
            elif "norm" not in name and "ln_" not in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    model.tie_weights()
    return model.eval()


class ByteTokenizer:
    """Ids 3 to 258 are the bytes, some words follow; the last eight ids are marks without text.

    Args:
        suffix: what stands between a prompt and the answer (ChatGLM's marks).
    """

    WORDS = (" the", "ab", '"a"', "END", "你", "好。")

    def __init__(self, suffix: tuple[int, ...] = ()) -> None:
        self.vocab_size = VOCABULARY
        self.bos_ids: list[int] = []
        self.suffix_ids = list(suffix)
        self.eos_ids = frozenset({EOS})
        self.special_ids = frozenset(range(PLAIN, VOCABULARY))
        self.drops_first_blank = False

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        return [byte + 3 for byte in text.encode()]

    def encode_segments(self, segments: Sequence[tuple[str, bool]]) -> list[int]:
        return [i for text, _ in segments for i in self.encode(text)]

    def token_bytes(self, token_id: int) -> bytes:
        if token_id in self.special_ids:
            return f"<{token_id}>".encode()
        words = [bytes([i]) for i in range(256)] + [word.encode() for word in self.WORDS]
        return words[token_id - 3] if 3 <= token_id < 3 + len(words) else b""

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        kept = (self.token_bytes(i) for i in ids if not (skip_special and i in self.special_ids))
        return b"".join(kept).decode("utf-8", errors="replace")

    def id_of(self, spelling: str) -> int | None:
        return None
