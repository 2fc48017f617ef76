"""The training step against the plain arithmetic: losses and gradients of transformers' own padded forward."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")

from ninestory.training.batches import TokenRow, epoch_order, micro_batches, rows_of_step  # noqa: E402
from ninestory.training.loss import chunked_cross_entropy, label_losses  # noqa: E402
from ninestory.training.objectives.causal import CausalObjective  # noqa: E402
from ninestory.training.schedule import learning_rate  # noqa: E402
from ninestory.training.settings import TrainSettings  # noqa: E402
from tests.tiny_training import rows, seeded, tiny_llama  # noqa: E402


def plain_loss(model: Any, texts: list[TokenRow]) -> Any:
    """Each row alone through the model's own loss; the sum over labels divided by their number."""
    total = sum(model(torch.tensor([row.ids]), labels=torch.tensor([row.labels])).loss * row.weight for row in texts)
    return total / sum(row.weight for row in texts)


def gradients(model: Any) -> dict[str, Any]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("budget", [10_000, 30])
def test_packed_rows_give_the_loss_and_the_gradients_of_the_rows_alone(budget: int) -> None:
    texts = rows(9)
    expected = tiny_llama()
    loss = plain_loss(expected, texts)
    loss.backward()

    model = tiny_llama()
    forward = CausalObjective(model)
    assert forward.packed
    labels = sum(row.weight for row in texts)
    total = 0.0
    for piece in micro_batches([len(row.ids) for row in texts], budget):
        part = forward.loss([texts[i] for i in piece], 1 / labels)
        part.backward()
        total += part.item()

    assert total == pytest.approx(loss.item(), abs=1e-5)
    for name, grad in gradients(expected).items():
        torch.testing.assert_close(gradients(model)[name], grad, rtol=1e-3, atol=1e-6)


def test_no_row_sees_its_neighbour_in_the_line() -> None:
    texts = rows(3)
    forward = CausalObjective(tiny_llama())
    changed = [TokenRow([7] * len(texts[0].ids), texts[0].labels), *texts[1:]]
    before, after = forward.token_losses(texts), forward.token_losses(changed)
    own = texts[0].weight
    assert not torch.allclose(before[:own], after[:own])
    torch.testing.assert_close(before[own:], after[own:], rtol=0, atol=0)


def families() -> list[tuple[str, Any, bool]]:
    from transformers import (
        BloomConfig,
        BloomForCausalLM,
        CodeGenConfig,
        CodeGenForCausalLM,
        GPT2Config,
        GPT2LMHeadModel,
        MistralConfig,
        MistralForCausalLM,
    )

    gpt = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 300, "n_positions": 64}
    windowed = MistralConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=300, sliding_window=6,
    )  # fmt: skip
    return [
        ("gpt2", seeded(GPT2LMHeadModel, GPT2Config(**gpt)), True),
        ("a window shorter than the rows", seeded(MistralForCausalLM, windowed), True),
        ("codegen (MOSS)", seeded(CodeGenForCausalLM, CodeGenConfig(**gpt, rotary_dim=4)), False),
        ("bloom", seeded(BloomForCausalLM, BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=300)), False),
    ]


@pytest.mark.parametrize("number", range(4))
def test_every_family_gives_its_own_loss_packed_or_padded(number: int) -> None:
    _, model, packs = families()[number]
    model.eval()
    texts = rows(5)
    expected = plain_loss(model, texts)
    forward = CausalObjective(model)
    assert forward.packed is packs
    loss = forward.loss(texts, 1 / sum(row.weight for row in texts))
    assert loss.item() == pytest.approx(expected.item(), abs=1e-4)


def test_chatglm_is_padded_on_the_right_and_gives_its_own_loss() -> None:
    from ninestory.architectures.chatglm import ChatGLMConfig, ChatGLMForConditionalGeneration

    config = ChatGLMConfig(
        vocab_size=300, hidden_size=32, num_layers=2, num_attention_heads=2, inner_hidden_size=64,
        bos_token_id=250, eos_token_id=251, mask_token_id=252, gmask_token_id=253,
    )  # fmt: skip
    model = seeded(ChatGLMForConditionalGeneration, config).eval()
    texts = []
    for row in rows(4, vocabulary=200):
        ids = [*row.ids[:3], 253, 250, *row.ids[3:], 251]
        texts.append(TokenRow(ids, [-100] * 4 + ids[4:]))
    forward = CausalObjective(model)
    assert not forward.packed
    loss = forward.loss(texts, 1 / sum(row.weight for row in texts))
    assert loss.item() == pytest.approx(plain_loss(model, texts).item(), abs=1e-5)


def test_gradient_checkpointing_changes_no_number() -> None:
    texts = rows(6)
    found = []
    for recompute in (False, True):
        model = tiny_llama()
        if recompute:
            model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        model.train()
        CausalObjective(model).loss(texts, 0.1).backward()
        found.append(gradients(model))
    for name, grad in found[0].items():
        torch.testing.assert_close(found[1][name], grad, rtol=0, atol=0)


@pytest.mark.parametrize("positions", [1, 256, 600])
def test_chunked_cross_entropy_is_the_plain_one(positions: int) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(positions, 16, generator=generator, requires_grad=True)
    weight = torch.randn(50, 16, generator=generator, requires_grad=True)
    bias = torch.randn(50, generator=generator, requires_grad=True)
    labels = torch.randint(0, 50, (positions,), generator=generator)
    expected = torch.nn.functional.cross_entropy(hidden @ weight.T + bias, labels, reduction="sum") * 0.25
    wanted = torch.autograd.grad(expected, (hidden, weight, bias))
    got = chunked_cross_entropy(hidden, weight, bias, labels, 0.25)
    torch.testing.assert_close(got, expected)
    for a, b in zip(torch.autograd.grad(got, (hidden, weight, bias)), wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(label_losses(hidden, weight, bias, labels).sum() * 0.25, expected)


def test_no_logits_matrix_is_ever_whole() -> None:
    """The largest tensor made between hidden states and loss holds one chunk of positions."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                Largest.numel = max(Largest.numel, out.numel())
            return out

    hidden, weight = torch.randn(2000, 8, requires_grad=True), torch.randn(5000, 8)
    with Largest():
        chunked_cross_entropy(hidden, weight, None, torch.zeros(2000, dtype=torch.long), 1.0).backward()
    assert Largest.numel <= 256 * 5000


def test_the_order_of_an_epoch_depends_on_its_number_and_the_seed_alone() -> None:
    assert epoch_order(50, 3, 2) == epoch_order(50, 3, 2)
    assert len({tuple(epoch_order(50, seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9
    seen = [i for step in range(4) for i in rows_of_step(step, 10, 3, seed=1)]
    assert sorted(seen) == list(range(10))  # 3 + 3 + 3 + 1
    assert rows_of_step(4, 10, 3, seed=1) == epoch_order(10, 1, 1)[:3]


@pytest.mark.parametrize("count", [12, 200, 203, 1001])
def test_rows_grouped_by_length_come_once_an_epoch_in_steps_of_about_one_length(count: int) -> None:
    generator = torch.Generator().manual_seed(4)
    lengths = torch.randint(4, 200, (count,), generator=generator).tolist()
    texts = [TokenRow([1] * length, [1] * length) for length in lengths]
    grouped, plain = (TrainSettings(batch_size=8, seed=5, group_by_length=on) for on in (True, False))
    padding = {}
    for settings in (grouped, plain):
        for epoch in (0, 1):
            steps = range(epoch * -(-count // 8), (epoch + 1) * -(-count // 8))
            taken = [settings.rows_of_step(step, texts) for step in steps]
            assert sorted(i for step in taken for i in step) == list(range(count))
            assert sum(len(step) < 8 for step in taken) == bool(count % 8)
            padding[settings.group_by_length] = sum(
                max(lengths[i] for i in step) * len(step) - sum(lengths[i] for i in step) for step in taken
            )
    assert padding[True] < 0.6 * padding[False]
    first, second = (grouped.rows_of_step(step, texts) for step in (0, -(-count // 8)))
    assert first != second and first == grouped.rows_of_step(0, texts)  # by seed and step alone, epochs differ


def test_steps_of_grouped_rows_are_shuffled() -> None:
    texts = [TokenRow([1] * length, [1] * length) for length in range(1, 401)]
    settings = TrainSettings(batch_size=8, group_by_length=True)
    longest = [max(settings.rows_of_step(step, texts)) for step in range(50)]
    assert longest != sorted(longest) and longest != sorted(longest, reverse=True)


def test_micro_batches_hold_the_budget_packed_and_padded() -> None:
    lengths = [7, 3, 9, 1, 30, 2, 2]
    for padded in (False, True):
        pieces = micro_batches(lengths, 12, padded=padded)
        assert [i for piece in pieces for i in piece] == list(range(7))
        for piece in pieces:
            widths = [lengths[i] for i in piece]
            assert len(piece) == 1 or (max(widths) * len(widths) if padded else sum(widths)) <= 12


def test_schedules_rise_and_fall() -> None:
    rates = [learning_rate(s, 100, 1.0, 10, "cosine") for s in range(100)]
    assert rates[9] == 1.0 and rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert learning_rate(55, 100, 1.0, 10, "linear") == pytest.approx(0.5)
    assert learning_rate(99, 100, 1.0, 10, "constant") == 1.0


def test_answers_given_together_are_those_given_alone() -> None:
    forward = CausalObjective(tiny_llama().eval())
    assert forward.packed
    questions = [row.ids for row in rows(5)]
    longest = max(map(len, questions))

    def answers(ids: list[list[int]], mask: list[list[int]]) -> list[list[int]]:
        made = forward.base.generate(
            input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask), max_new_tokens=5, do_sample=False
        )
        return made[:, len(ids[0]) :].tolist()

    with forward.masked_attention():
        padded = [[0] * (longest - len(ids)) + ids for ids in questions]
        together = answers(padded, [[int(token > 0) for token in ids] for ids in padded])
    assert together == [answers([ids], [[1] * len(ids)])[0] for ids in questions]
