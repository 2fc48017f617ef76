"""ChatGLM-6B, first generation: a prefix language model with two-dimensional rotary positions.

Differs from the LLaMA family in five ways, all read from THUDM/chatglm-6b's final modeling_chatglm.py:
the context before `<sop>` is bidirectional; every token has two positions, each rotating one half of the head; the
residual branch is the *normed* input times alpha; query, key and value rows are grouped per head; attention scores
of the original are scaled by layer in float16, which is plain scaling in exact arithmetic.

The model works on token ids only (text: tokenizers/chatglm.py); its caller loads the weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import Cache, DynamicCache, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import CausalLMOutputWithPast

from ninestory.architectures.quantized_linear import RowQuantizedLinear

# The layer class of the original takes num_layers with default 28 and is never given another value.
ALPHA = math.sqrt(2 * 28)


class ChatGLMConfig(PreTrainedConfig):
    """config.json of a ChatGLM-6B checkpoint. The ids of v0.1 (vocab 150528) differ from v1.1 (130528)."""

    model_type = "chatglm"
    attribute_map = {"num_hidden_layers": "num_layers", "max_position_embeddings": "max_sequence_length"}

    vocab_size: int = 130528
    hidden_size: int = 4096
    num_layers: int = 28
    num_attention_heads: int = 32
    inner_hidden_size: int = 16384
    layernorm_epsilon: float = 1e-5
    max_sequence_length: int = 2048
    bos_token_id: int = 130004  # <sop>
    eos_token_id: int = 130005  # <eop>
    mask_token_id: int = 130000
    gmask_token_id: int = 130001
    pad_token_id: int = 3
    position_encoding_2d: bool = True
    quantization_bit: int = 0
    pre_seq_len: int = 0
    prefix_projection: bool = False
    use_cache: bool = True
    tie_word_embeddings: bool = True


@dataclass(frozen=True)
class PositionsAndMask:
    """Position ids and attention mask of a batch.

    positions: int64 [batch, 2, seq]: position in the context, and position in the answer (0 before it).
    hidden: bool [batch, seq, seq], True = column not visible to the row.
    """

    positions: torch.Tensor
    hidden: torch.Tensor


def positions_and_mask(
    input_ids: torch.Tensor, config: ChatGLMConfig, attention_mask: torch.Tensor | None = None
) -> PositionsAndMask:
    """Compute positions and mask of a batch [batch, seq], following the final revision.

    Args:
        attention_mask: [batch, seq], 0 at left padding, which is masked and not counted (as the original tokenizer
            does); None treats every position as a token (as the original model does).
    """
    batch, length = input_ids.shape
    rows = torch.arange(length, device=input_ids.device)
    is_start = input_ids.eq(config.bos_token_id)
    start = torch.where(is_start.any(1), is_start.int().argmax(1), length)  # [batch], index of the first <sop>
    is_gmask, is_mask = input_ids.eq(config.gmask_token_id), input_ids.eq(config.mask_token_id)
    masked = torch.where(is_gmask.any(1, keepdim=True), is_gmask, is_mask)
    mask_place = masked.int().argmax(1)  # [batch], index of the first [gMASK], else [MASK]

    padding = torch.zeros(batch, dtype=torch.long, device=input_ids.device)
    if attention_mask is not None:
        padding = (attention_mask == 0).sum(1)
    text = torch.where(rows < start[:, None], rows - padding[:, None], (mask_place - padding)[:, None]).clamp(min=0)
    answer = (rows - start[:, None] + 1).clamp(min=0)
    hidden = (rows[None, :] > rows[:, None])[None] & (rows >= start[:, None])[:, None, :]
    if attention_mask is not None:
        pad = rows < padding[:, None]  # [batch, seq]
        hidden = hidden | pad[:, None, :] | pad[:, :, None]
    return PositionsAndMask(torch.stack((text, answer), dim=1), hidden)


def _rotary_table(positions: torch.Tensor, half: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin [batch, 2, seq, half], one half of the head for each of the two positions.

    The original keeps the frequencies in float16; a float32 run uses the rounded values.
    """
    exponents = torch.arange(0, half, 2, device=positions.device).float() / half
    wide = torch.float32 if dtype == torch.bfloat16 else dtype  # bfloat16 has no places beyond 256
    frequencies = (1.0 / (10000**exponents)).half().to(wide)  # [half / 2]
    angles = positions[..., None].to(wide) * frequencies  # [batch, 2, seq, half / 2]
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate the two halves of each head of x [batch, heads, seq, head_dim] by their own positions."""
    halves = x.unflatten(-1, (2, -1))  # [batch, heads, seq, 2, half]
    first, second = halves.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    cos, sin = (t.transpose(1, 2)[:, None] for t in (cos, sin))  # [batch, 1, seq, 2, half]
    return (halves * cos + turned * sin).flatten(-2)


def _linear(config: ChatGLMConfig, in_features: int, out_features: int) -> nn.Module:
    if config.quantization_bit:
        return RowQuantizedLinear(in_features, out_features, config.quantization_bit)
    return nn.Linear(in_features, out_features)


class ChatGLMAttention(nn.Module):
    def __init__(self, config: ChatGLMConfig, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.heads = config.num_attention_heads
        self.query_key_value = _linear(config, config.hidden_size, 3 * config.hidden_size)
        self.dense = _linear(config, config.hidden_size, config.hidden_size)

    def forward(
        self,
        x: torch.Tensor,  # [batch, seq, hidden]
        rotary: tuple[torch.Tensor, torch.Tensor],
        bias: torch.Tensor,  # [batch, 1, seq, keys], 0 or a very large negative number
        cache: Cache | None,
        prefix: tuple[torch.Tensor, torch.Tensor] | None,  # each [batch, heads, pre_seq_len, head_dim]
        step: Any = None,
    ) -> torch.Tensor:
        grouped = self.query_key_value(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [b, heads, seq, 3·hd]
        query, key, value = grouped.chunk(3, dim=-1)
        query, key = _rotate(query, *rotary), _rotate(key, *rotary)
        if step is not None:
            packed = (t[0].transpose(0, 1) for t in (query, key, value))  # each [seq, heads, head_dim]
            return self.dense(step.attend(self.layer_idx, *packed)[None])
        if prefix is not None:
            key, value = torch.cat((prefix[0], key), dim=2), torch.cat((prefix[1], value), dim=2)
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.dense(context.transpose(1, 2).flatten(2))


class ChatGLMMLP(nn.Module):
    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        self.dense_h_to_4h = _linear(config, config.hidden_size, config.inner_hidden_size)
        self.dense_4h_to_h = _linear(config, config.inner_hidden_size, config.hidden_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dense_4h_to_h(F.gelu(self.dense_h_to_4h(x), approximate="tanh"))


class ChatGLMBlock(GradientCheckpointingLayer):
    def __init__(self, config: ChatGLMConfig, layer_idx: int) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.attention = ChatGLMAttention(config, layer_idx)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.mlp = ChatGLMMLP(config)

    def forward(self, x, rotary, bias, cache, prefix, step=None):
        normed = self.input_layernorm(x)
        x = normed * ALPHA + self.attention(
            normed, rotary, bias, cache, prefix, step
        )  # the residual is the normed input
        normed = self.post_attention_layernorm(x)
        return normed * ALPHA + self.mlp(normed)


class PrefixEncoder(nn.Module):
    """P-Tuning v2: trainable keys and values in front of every layer. Computed in its own dtype (float32)."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        width = 2 * config.num_layers * config.hidden_size
        self.projects = config.prefix_projection
        if self.projects:
            self.embedding = nn.Embedding(config.pre_seq_len, config.hidden_size)
            self.trans = nn.Sequential(
                nn.Linear(config.hidden_size, config.hidden_size), nn.Tanh(), nn.Linear(config.hidden_size, width)
            )
        else:
            self.embedding = nn.Embedding(config.pre_seq_len, width)

    def forward(self) -> torch.Tensor:
        """[pre_seq_len, 2 · layers · hidden]"""
        return self.trans(self.embedding.weight) if self.projects else self.embedding.weight


class ChatGLMPreTrainedModel(PreTrainedModel):
    config: ChatGLMConfig
    config_class = ChatGLMConfig
    base_model_prefix = "transformer"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["ChatGLMBlock"]
    _keys_to_ignore_on_load_unexpected = [r"rotary_emb\.inv_freq$"]

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


class ChatGLMModel(ChatGLMPreTrainedModel):
    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(ChatGLMBlock(config, i) for i in range(config.num_layers))
        self.final_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        if config.pre_seq_len:
            self.prefix_encoder = PrefixEncoder(config)
            self.dropout = nn.Dropout(0.1)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.word_embeddings = value

    def prefix_keys_values(self, batch: int, dtype: torch.dtype) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Per layer a key and a value [batch, heads, pre_seq_len, head_dim]; no rotary is applied to them."""
        config = self.config
        flat = self.prefix_encoder().to(dtype)  # [pre_seq_len, 2 · layers · hidden]
        heads = flat.view(config.pre_seq_len, 2 * config.num_layers, config.num_attention_heads, -1)
        heads = self.dropout(heads).permute(1, 2, 0, 3)  # [2 · layers, heads, pre_seq_len, head_dim]
        expanded = heads[:, None].expand(-1, batch, -1, -1, -1)
        return [(expanded[2 * i], expanded[2 * i + 1]) for i in range(config.num_layers)]

    def packed(self, input_ids: torch.Tensor, position_ids: torch.Tensor, step: Any) -> torch.Tensor:
        """Hidden states [1, T, hidden] of several sequences packed into one.

        Args:
            input_ids: [1, T]; position_ids: [1, 2, T].
            step: provides `attend(layer, q, k, v)`, which masks the sequences from one another; its cache holds a prefix.
        """
        x = self.word_embeddings(input_ids)
        rotary = _rotary_table(position_ids, self._half_head, x.dtype)
        for layer in self.layers:
            x = layer(x, rotary, None, None, None, step)
        return self.final_layernorm(x)

    @property
    def _half_head(self) -> int:
        return self.config.hidden_size // self.config.num_attention_heads // 2

    def forward(
        self,
        input_ids: torch.Tensor | None = None,  # [batch, new]
        position_ids: torch.Tensor | None = None,  # [batch, 2, new]
        attention_mask: torch.Tensor | None = None,  # [batch, seq] 1 = real, or bool [batch, new, seq] True = hidden
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Hidden states [batch, new, hidden] after the last norm."""
        x = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        padding_mask = attention_mask if attention_mask is not None and attention_mask.dim() == 2 else None
        hidden = attention_mask if padding_mask is None else None
        if position_ids is None or hidden is None:
            if input_ids is None:
                raise ValueError("inputs_embeds needs position_ids and a boolean attention_mask: both follow from ids")
            default = positions_and_mask(input_ids, self.config, padding_mask)
            position_ids = default.positions if position_ids is None else position_ids
            hidden = default.hidden if hidden is None else hidden
        first = past_key_values is None or past_key_values.get_seq_length() == 0
        prefixes = self.prefix_keys_values(x.shape[0], x.dtype) if self.config.pre_seq_len and first else None

        # Finite, so that a row whose columns are all hidden (padding) becomes uniform and not NaN.
        bias = torch.zeros(hidden.shape, dtype=x.dtype, device=x.device).masked_fill(hidden, torch.finfo(x.dtype).min)
        if self.config.pre_seq_len:
            bias = F.pad(bias, (self.config.pre_seq_len, 0))  # prefix columns are never hidden
        rotary = _rotary_table(position_ids, self._half_head, x.dtype)
        for i, layer in enumerate(self.layers):
            x = layer(x, rotary, bias[:, None], past_key_values, prefixes[i] if prefixes else None)
        return self.final_layernorm(x)


class ChatGLMForConditionalGeneration(ChatGLMPreTrainedModel, GenerationMixin):
    """ChatGLM-6B with its language-model head, which is tied to the embedding."""

    _tied_weights_keys = {"lm_head.weight": "transformer.word_embeddings.weight"}

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__(config)
        self.transformer = ChatGLMModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.lm_head = value

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,  # [batch, seq], -100 = not scored
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **_: object,
    ) -> CausalLMOutputWithPast:
        if past_key_values is None and use_cache:
            past_key_values = DynamicCache()
        x = self.transformer(input_ids, position_ids, attention_mask, past_key_values, inputs_embeds)
        logits = self.lm_head(x[:, -logits_to_keep:] if logits_to_keep else x)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values)

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.Tensor,
        past_key_values: Cache | None = None,
        attention_mask: torch.Tensor | None = None,
        **kwargs: object,
    ) -> dict[str, object]:
        """Recompute positions and mask for the whole sequence, then slice off the tokens that are already cached."""
        made = positions_and_mask(input_ids, self.config, attention_mask)
        cached = past_key_values.get_seq_length() if past_key_values is not None else 0
        cached -= (self.config.pre_seq_len or 0) if cached else 0
        return {
            "input_ids": input_ids[:, cached:],
            "position_ids": made.positions[:, :, cached:],
            "attention_mask": made.hidden[:, cached:],
            "past_key_values": past_key_values,
            "use_cache": kwargs.get("use_cache"),
            "logits_to_keep": kwargs.get("logits_to_keep", 0),
        }
