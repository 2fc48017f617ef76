"""Cross-entropy that never builds the whole logits matrix.

The forward pass makes the logits of a chunk of positions, turns them in place into the gradient of the loss, and
multiplies that into the hidden states' gradient. Only this is kept: nothing is computed twice. With a vocabulary
of 49,152 the logits of 2,048 positions alone would take 400 MB, and twice that in the backward pass.
"""

from __future__ import annotations

import torch

CHUNK = 256  # positions whose logits are alive at once


class ChunkedCrossEntropy(torch.autograd.Function):
    """Sum of the losses of all positions, times `scale`."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, labels, scale):
        hidden32, weight32 = hidden.detach().float(), weight.detach().float()
        d_hidden = torch.empty_like(hidden32)
        d_weight = torch.zeros_like(weight32) if ctx.needs_input_grad[1] else None
        d_bias = torch.zeros_like(weight32[:, 0]) if bias is not None and ctx.needs_input_grad[2] else None
        total = hidden32.new_zeros(())
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, hidden.shape[0], CHUNK):
                rows, gold = hidden32[start : start + CHUNK], labels[start : start + CHUNK, None]
                logits = rows @ weight32.T  # [chunk, vocabulary]
                if bias is not None:
                    logits += bias.detach().float()
                torch.log_softmax(logits, 1, out=logits)
                total -= logits.gather(1, gold).sum()
                logits.exp_()
                logits.scatter_add_(1, gold, torch.full_like(gold, -1, dtype=logits.dtype))
                logits *= scale
                torch.mm(logits, weight32, out=d_hidden[start : start + CHUNK])
                if d_weight is not None:
                    d_weight.addmm_(logits.T, rows)
                if d_bias is not None:
                    d_bias += logits.sum(0)
                del logits  # otherwise two chunks are alive at the start of the next turn
        ctx.save_for_backward(d_hidden.to(hidden.dtype), d_weight, d_bias)
        return total * scale

    @staticmethod
    def backward(ctx, grad):
        d_hidden, d_weight, d_bias = ctx.saved_tensors
        scaled_weight = None if d_weight is None else d_weight * grad
        scaled_bias = None if d_bias is None else d_bias * grad
        return d_hidden * grad, scaled_weight, scaled_bias, None, None


def chunked_cross_entropy(
    hidden: torch.Tensor,  # [positions, hidden], each the state that predicts its label
    weight: torch.Tensor,  # [vocabulary, hidden]
    bias: torch.Tensor | None,  # [vocabulary]
    labels: torch.Tensor,  # int64 [positions]
    scale: float,
) -> torch.Tensor:
    """scale · Σ −log p(label), in float32; `scale` is one over the label count of the whole step."""
    return ChunkedCrossEntropy.apply(hidden, weight, bias, labels, scale)


class ChunkedLabelLosses(torch.autograd.Function):
    """−log p of each label by itself. What multiplies them is known only afterwards, so the backward pass makes the
    logits of each chunk once more."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, labels):
        ctx.save_for_backward(hidden, weight, bias, labels)
        return label_losses(hidden, weight, bias, labels)

    @staticmethod
    def backward(ctx, grad):
        hidden, weight, bias, labels = ctx.saved_tensors
        hidden32, weight32 = hidden.float(), weight.float()
        d_hidden = torch.empty_like(hidden32)
        d_weight = torch.zeros_like(weight32) if ctx.needs_input_grad[1] else None
        d_bias = torch.zeros_like(weight32[:, 0]) if bias is not None and ctx.needs_input_grad[2] else None
        for start in range(0, hidden.shape[0], CHUNK):
            rows, gold = hidden32[start : start + CHUNK], labels[start : start + CHUNK, None]
            logits = rows @ weight32.T  # [chunk, vocabulary]
            if bias is not None:
                logits += bias.float()
            torch.softmax(logits, 1, out=logits)
            logits.scatter_add_(1, gold, torch.full_like(gold, -1, dtype=logits.dtype))
            logits *= grad[start : start + CHUNK, None]
            torch.mm(logits, weight32, out=d_hidden[start : start + CHUNK])
            if d_weight is not None:
                d_weight.addmm_(logits.T, rows)
            if d_bias is not None:
                d_bias += logits.sum(0)
            del logits
        return d_hidden.to(hidden.dtype), d_weight, d_bias, None


def chunked_label_losses(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, labels: torch.Tensor
) -> torch.Tensor:
    """−log p(label) of each position, float32 [positions], differentiable; arguments as in `chunked_cross_entropy`."""
    return ChunkedLabelLosses.apply(hidden, weight, bias, labels)


@torch.no_grad()
def label_losses(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, labels: torch.Tensor
) -> torch.Tensor:
    """−log p(label) of each position, float32 [positions]; chunked as above."""
    losses = []
    for start in range(0, hidden.shape[0], CHUNK):
        logits = hidden[start : start + CHUNK].float() @ weight.float().T
        if bias is not None:
            logits += bias.float()
        torch.log_softmax(logits, 1, out=logits)
        losses.append(-logits.gather(1, labels[start : start + CHUNK, None]).squeeze(1))
        del logits
    return torch.cat(losses) if losses else hidden.new_zeros(0)
