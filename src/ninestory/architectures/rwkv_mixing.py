"""The two halves of an RWKV block, versions 4 to 7: time mixing (over tokens) and channel mixing (within one).

Parameters keep the names of the `.pth` releases (low-rank pairs are linears here, so transposed). Every input is a
flat [T, C] of tokens; `PackedSequences` has the sequence boundaries. The recurrences are those of BlinkDL/ChatRWKV's
model.py, token by token in float32.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ninestory.architectures.rwkv_state import NO_MAXIMUM, LayerSizes, LayerState, PackedSequences

HEAD_NORM_EPS = 64e-5
DECAY_LIMIT = 0.606531  # e^-0.5: version 7's slowest forgetting is e^-0.606531 a token


def _vector(width: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(1, 1, width))


def _mixed(x: torch.Tensor, prev: torch.Tensor, mix: torch.Tensor) -> torch.Tensor:
    """Versions 4 and 5: a weighted mean of this token and the last. x, prev: [T, C]."""
    mix = mix.view(-1)
    return x * mix + prev * (1 - mix)


def _moved(x: torch.Tensor, delta: torch.Tensor, mix: torch.Tensor) -> torch.Tensor:
    """Versions 6 and 7: this token moved towards the last (delta = last - this)."""
    return x + delta * mix.view(-1)


# --- recurrences ------------------------------------------------------------------------------------------------


def wkv4(decay: torch.Tensor, bonus: torch.Tensor):
    """Version 4: a weighted mean of values, its weights e^key fading by e^decay a token; decay, bonus: [A]."""

    def run(inputs: list[torch.Tensor], memory: list[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        keys, values = inputs  # [rows, n, A] float32
        above, below, top = memory  # numerator, denominator, running maximum of the exponents: [rows, A]
        out = []
        for k, v in zip(keys.unbind(1), values.unbind(1), strict=True):
            q = torch.maximum(top, bonus + k)
            old, new = torch.exp(top - q), torch.exp(bonus + k - q)
            out.append((old * above + new * v) / (old * below + new))
            q = torch.maximum(decay + top, k)
            old, new = torch.exp(decay + top - q), torch.exp(k - q)
            above, below, top = old * above + new * v, old * below + new, q
        return torch.stack(out, 1), [above, below, top]

    return run


def wkv5(inputs: list[torch.Tensor], memory: list[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Versions 5 and 6: inputs value, receptance, key, decay, bonus, each [rows, n, H, N] float32; memory [rows, H, key, value]."""
    (state,) = memory
    out = []
    for v, r, k, d, u in zip(*(t.unbind(1) for t in inputs), strict=True):
        product = k[..., :, None] * v[..., None, :]  # [rows, H, key, value]
        out.append((r[..., None, :] @ (u[..., :, None] * product + state)).squeeze(-2))
        state = product + d[..., :, None] * state
    return torch.stack(out, 1), [state]


def wkv7(inputs: list[torch.Tensor], memory: list[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Version 7, the delta rule: inputs value, receptance, key, decay, removal key, its strength · removal key."""
    (state,) = memory  # [rows, H, value, key] float32
    out = []
    for v, r, k, w, gone, back in zip(*(t.unbind(1) for t in inputs), strict=True):
        removed = state @ gone[..., :, None]  # [rows, H, value, 1]
        state = state * w[..., None, :] - removed * back[..., None, :] + v[..., :, None] * k[..., None, :]
        out.append((state @ r[..., :, None]).squeeze(-1))
    return torch.stack(out, 1), [state]


# --- time mixing ------------------------------------------------------------------------------------------------


class TimeMixing(nn.Module):
    """Base of every version: the four projections and the heads."""

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__()
        self.heads, self.head_size = sizes.heads, sizes.head_size
        inner, width = sizes.attention_size, sizes.hidden_size
        self.receptance = nn.Linear(width, inner, bias=False)
        self.key = nn.Linear(width, inner, bias=False)
        self.value = nn.Linear(width, inner, bias=False)
        self.output = nn.Linear(inner, width, bias=False)

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.heads, self.head_size)).float()  # [T, H, N]

    def _empty(self, rows: int, device: torch.device) -> list[torch.Tensor]:
        return [torch.zeros(rows, self.heads, self.head_size, self.head_size, device=device)]

    def _normed(self, y: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Each head normed by itself; y: [T, H, N] float32 → [T, C]."""
        norm = self.ln_x
        y = F.group_norm(y.flatten(1), self.heads, norm.weight.float(), norm.bias.float(), HEAD_NORM_EPS)
        return y.to(dtype)


class TimeMixing4(TimeMixing):
    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__(sizes)
        self.time_decay = nn.Parameter(torch.zeros(sizes.attention_size))
        self.time_first = nn.Parameter(torch.zeros(sizes.attention_size))
        self.time_mix_k, self.time_mix_v, self.time_mix_r = (_vector(sizes.hidden_size) for _ in range(3))

    def forward(self, x: torch.Tensor, rows: PackedSequences, state: LayerState | None, shared: dict) -> torch.Tensor:
        prev = rows.previous(x, state.att_prev if state else None)
        r = torch.sigmoid(self.receptance(_mixed(x, prev, self.time_mix_r)))
        k = self.key(_mixed(x, prev, self.time_mix_k)).float()
        v = self.value(_mixed(x, prev, self.time_mix_v)).float()

        def fresh(count: int) -> list[torch.Tensor]:
            zeros = k.new_zeros(count, k.shape[1])
            return [zeros, zeros, torch.full_like(zeros, NO_MAXIMUM)]

        recurrence = wkv4(-torch.exp(self.time_decay.float()), self.time_first.float())
        y = rows.scan(recurrence, [k, v], state.memory if state else None, fresh)
        return self.output(r * y.to(x.dtype))


class TimeMixing5(TimeMixing):
    """Versions 5.0 (no gate), 5.1 (gate; one decay a head) and 5.2 (a decay for every row of the head's matrix)."""

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__(sizes)
        width, self.version = sizes.hidden_size, sizes.version
        shape = (sizes.heads, sizes.head_size) if self.version == "5.2" else (sizes.heads,)
        self.time_decay = nn.Parameter(torch.zeros(shape))
        if self.version == "5.0":
            self.time_first = nn.Parameter(torch.zeros(shape))
        else:
            self.time_faaaa = nn.Parameter(torch.zeros(shape))
            self.time_mix_g = _vector(width)
            self.gate = nn.Linear(width, sizes.attention_size, bias=False)
        self.time_mix_k, self.time_mix_v, self.time_mix_r = (_vector(width) for _ in range(3))
        self.ln_x = nn.LayerNorm(sizes.attention_size)

    def forward(self, x: torch.Tensor, rows: PackedSequences, state: LayerState | None, shared: dict) -> torch.Tensor:
        prev = rows.previous(x, state.att_prev if state else None)
        r = self._heads(self.receptance(_mixed(x, prev, self.time_mix_r)))
        k = self._heads(self.key(_mixed(x, prev, self.time_mix_k)))
        v = self._heads(self.value(_mixed(x, prev, self.time_mix_v)))
        decay = torch.exp(-torch.exp(self.time_decay.float())).view(self.heads, -1).expand_as(r)
        bonus = torch.exp(self.time_first.float()) if self.version == "5.0" else self.time_faaaa.float()
        bonus = bonus.view(self.heads, -1).expand_as(r)
        y = rows.scan(
            wkv5, [v, r, k, decay, bonus], state.memory if state else None, lambda n: self._empty(n, x.device)
        )
        y = self._normed(y, x.dtype)
        if self.version != "5.0":
            y = y * F.silu(self.gate(_mixed(x, prev, self.time_mix_g)))
        return self.output(y)


class TimeMixing6(TimeMixing):
    def __init__(self, sizes: LayerSizes, mix_rank: int, decay_rank: int) -> None:
        super().__init__(sizes)
        width = sizes.hidden_size
        for name in "xwkvrg":
            setattr(self, f"time_maa_{name}", _vector(width))
        self.time_maa_w1 = nn.Linear(width, 5 * mix_rank, bias=False)
        self.time_maa_w2 = nn.ModuleList(nn.Linear(mix_rank, width, bias=False) for _ in range(5))
        self.time_decay = _vector(sizes.attention_size)
        self.time_decay_w1 = nn.Linear(width, decay_rank, bias=False)
        self.time_decay_w2 = nn.Linear(decay_rank, sizes.attention_size, bias=False)
        self.time_faaaa = nn.Parameter(torch.zeros(sizes.heads, sizes.head_size))
        self.gate = nn.Linear(width, sizes.attention_size, bias=False)
        self.ln_x = nn.LayerNorm(sizes.attention_size)

    def forward(self, x: torch.Tensor, rows: PackedSequences, state: LayerState | None, shared: dict) -> torch.Tensor:
        delta = rows.previous(x, state.att_prev if state else None) - x
        low = torch.tanh(self.time_maa_w1(_moved(x, delta, self.time_maa_x))).chunk(5, dim=-1)  # five [T, mix_rank]
        mixes = zip("wkvrg", low, self.time_maa_w2, strict=True)
        xw, xk, xv, xr, xg = (
            x + delta * (getattr(self, f"time_maa_{n}").view(-1) + up(z.contiguous())) for n, z, up in mixes
        )
        r, k = self._heads(self.receptance(xr)), self._heads(self.key(xk))
        v = self._heads(self.value(xv))
        speed = self.time_decay.view(-1) + self.time_decay_w2(torch.tanh(self.time_decay_w1(xw)))
        decay = torch.exp(-torch.exp(self._heads(speed)))
        bonus = self.time_faaaa.float().expand_as(r)
        y = rows.scan(
            wkv5, [v, r, k, decay, bonus], state.memory if state else None, lambda n: self._empty(n, x.device)
        )
        return self.output(self._normed(y, x.dtype) * F.silu(self.gate(xg)))


class TimeMixing7(TimeMixing):
    """Version 7. Reads the first layer's values from `shared["v_first"]`; the first layer stores them there."""

    def __init__(self, sizes: LayerSizes, ranks: dict[str, int], first: bool) -> None:
        super().__init__(sizes)
        width, self.first = sizes.hidden_size, first
        for name in "rwkvag":
            setattr(self, f"x_{name}", _vector(width))
        for name in ("w", "a", "g") if first else ("w", "a", "v", "g"):
            setattr(self, f"{name}1", nn.Linear(width, ranks[name], bias=False))
            setattr(self, f"{name}2", nn.Linear(ranks[name], width, bias=False))
            if name != "g":
                setattr(self, f"{name}0", _vector(width))
        self.k_k, self.k_a = _vector(width), _vector(width)
        self.r_k = nn.Parameter(torch.zeros(sizes.heads, sizes.head_size))
        self.ln_x = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor, rows: PackedSequences, state: LayerState | None, shared: dict) -> torch.Tensor:
        delta = rows.previous(x, state.att_prev if state else None) - x
        xr, xw, xk, xv, xa, xg = (_moved(x, delta, getattr(self, f"x_{name}")) for name in "rwkvag")
        r, k, v = self.receptance(xr), self.key(xk), self.value(xv)
        strength = torch.sigmoid(self.a0.view(-1) + self.a2(self.a1(xa)))
        gate = self.g2(torch.sigmoid(self.g1(xg)))
        gone = F.normalize(self._heads(k * self.k_k.view(-1)), dim=-1)
        k = k * (1 + (strength - 1) * self.k_a.view(-1))
        if self.first:
            shared["v_first"] = v
        else:
            share = torch.sigmoid(self.v0.view(-1) + self.v2(self.v1(xv)))
            v = v + (shared["v_first"].to(v) - v) * share
        speed = (self.w0.view(-1) + self.w2(torch.tanh(self.w1(xw)))).float()
        decay = torch.exp(-DECAY_LIMIT * torch.sigmoid(speed)).unflatten(-1, (self.heads, self.head_size))
        inputs = [self._heads(v), self._heads(r), self._heads(k), decay, gone, gone * self._heads(strength)]
        y = rows.scan(wkv7, inputs, state.memory if state else None, lambda n: self._empty(n, x.device))
        y = self._normed(y, x.dtype)
        direct = (self._heads(r) * self._heads(k) * self.r_k.float()).sum(-1, keepdim=True) * self._heads(v)
        return self.output((y + direct.flatten(1).to(x.dtype)) * gate)


# --- channel mixing ---------------------------------------------------------------------------------------------


class ChannelMixing(nn.Module):
    """relu² feed-forward, gated by a receptance up to version 6."""

    def __init__(self, version: str, width: int, inner: int) -> None:
        super().__init__()
        self.version = version
        names = {"6": ("time_maa_k", "time_maa_r"), "7": ("x_k",)}.get(version, ("time_mix_k", "time_mix_r"))
        for name in names:
            setattr(self, name, _vector(width))
        self.key = nn.Linear(width, inner, bias=False)
        self.value = nn.Linear(inner, width, bias=False)
        if version != "7":
            self.receptance = nn.Linear(width, width, bias=False)

    def forward(self, x: torch.Tensor, rows: PackedSequences, state: LayerState | None) -> torch.Tensor:
        prev = rows.previous(x, state.ffn_prev if state else None)
        if self.version == "7":
            return self.value(torch.relu(self.key(_moved(x, prev - x, self.x_k))) ** 2)
        if self.version == "6":
            k, r = _moved(x, prev - x, self.time_maa_k), _moved(x, prev - x, self.time_maa_r)
        else:
            k, r = _mixed(x, prev, self.time_mix_k), _mixed(x, prev, self.time_mix_r)
        return torch.sigmoid(self.receptance(r)) * self.value(torch.relu(self.key(k)) ** 2)
