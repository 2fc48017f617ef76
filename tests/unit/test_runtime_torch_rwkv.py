"""RWKV in the batching engine: each row's numbers are its own, memory does not grow, a state can be kept and forked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
import torch

from ninestory.architectures.rwkv_checkpoint import load_rwkv
from ninestory.core.config import RuntimeSettings
from ninestory.core.errors import Damaged, InvalidRequest, Unsupported
from ninestory.core.paths import Home
from ninestory.models.resolve import resolve
from ninestory.runtimes.plan import plan
from ninestory.runtimes.torch.packed_linear import replace_linears
from ninestory.runtimes.torch.probe import choose_linears
from ninestory.runtimes.torch.rwkv import RwkvDecoder, RwkvReader
from ninestory.runtimes.torch.slots import CHUNK, Slots
from ninestory.runtimes.torch.step import Row
from tests.tiny_rwkv import VERSIONS, tiny_model, write_release

pytestmark = pytest.mark.torch
ANSWER = 12


def packed(version: str) -> Any:
    model = tiny_model(version)
    replace_linears(model, choose_linears(model).classes)
    return model


def tokens(count: int, seed: int) -> list[int]:
    return torch.randint(1, 300, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def decode(model: Any, prompts: list[list[int]], answers: list[list[int]], slots: int) -> list[list[torch.Tensor]]:
    """Logits after each prompt and each forced token; one chunk of one joining row a pass, as the engine does it."""
    decoder = RwkvDecoder(model, slots=slots)
    for slot in range(len(prompts)):
        decoder.store.restore(slot, slot, 0)
    done, logits = [0] * len(prompts), [[] for _ in prompts]
    while any(d < len(p) + len(a) for d, p, a in zip(done, prompts, answers, strict=True)):
        rows, ids = [], []
        for slot, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            if len(prompt) <= done[slot] < len(prompt) + len(answer):
                rows.append(Row(slot, done[slot], 1))
                ids.append(answer[done[slot] - len(prompt)])
        joining = next((s for s, p in enumerate(prompts) if done[s] < len(p)), None)
        if joining is not None:
            part = prompts[joining][done[joining] : done[joining] + CHUNK]
            rows.append(Row(joining, done[joining], len(part)))
            ids += part
        hidden = decoder.forward(torch.tensor(ids), rows)
        ends = torch.tensor([row.n for row in rows]).cumsum(0) - 1
        for row, own in zip(rows, decoder.logits(hidden[ends]), strict=True):
            done[row.slot] += row.n
            if done[row.slot] >= len(prompts[row.slot]):
                logits[row.slot].append(own)
    return logits


@torch.inference_mode()
@pytest.mark.parametrize("version", VERSIONS)
def test_alone_and_among_eight_give_the_same_bits(version: str) -> None:
    model = packed(version)
    prompts = [tokens(n, seed) for seed, n in enumerate((3, CHUNK, CHUNK + 6, 9, 5, 131, 17, 30))]
    answers = [tokens(ANSWER, 100 + seed) for seed in range(8)]
    together = decode(model, prompts, answers, slots=8)
    for prompt, answer, among in zip(prompts, answers, together, strict=True):
        (alone,) = decode(model, [prompt], [answer], slots=1)
        assert len(alone) == ANSWER + 1
        assert all(torch.equal(a, b) for a, b in zip(alone, among, strict=True))


@torch.inference_mode()
@pytest.mark.parametrize("version", VERSIONS)
def test_a_reused_beginning_gives_the_same_bits(version: str) -> None:
    model = packed(version)
    decoder = RwkvDecoder(model, slots=2)
    slots = Slots(2, decoder.store)
    prompt = tokens(2 * CHUNK + 9, 1)

    def prefill() -> tuple[int, torch.Tensor]:
        lease = slots.take(prompt)
        assert lease is not None
        at = lease.reused
        while at < len(prompt):
            part = prompt[at : at + CHUNK]
            hidden = decoder.forward(torch.tensor(part), [Row(lease.slot, at, len(part))])
            at += len(part)
            slots.prefilled(lease.slot, prompt, at)
        decoder.forward(torch.tensor([7]), [Row(lease.slot, at, 1)])  # an answer goes on from the running state
        slots.give_back(lease.slot)
        return lease.reused, hidden[-1]

    (first_reused, first), (second_reused, second) = prefill(), prefill()
    assert (first_reused, second_reused) == (0, 2 * CHUNK)
    assert torch.equal(first, second)
    other = slots.take(tokens(70, 2))
    assert other is not None
    assert other.reused == 0


@torch.inference_mode()
@pytest.mark.parametrize("version", VERSIONS)
def test_memory_of_a_text_does_not_grow(version: str) -> None:
    model = tiny_model(version)
    state = model.new_state()
    before = state.nbytes_a_slot
    model(torch.tensor([tokens(1000, 3)]), state=state, logits_to_keep=1)
    assert state.nbytes_a_slot == before
    held = sum(t.untyped_storage().nbytes() for layer in state.layers for t in layer.tensors())
    assert held == before


@pytest.mark.parametrize("version", VERSIONS)
def test_the_plan_knows_the_size_of_a_state(version: str, tmp_path: Path) -> None:
    path = write_release(tmp_path / "model.pth", version, vocabulary=300)
    settings = RuntimeSettings(slots=3, context=512)
    planned = plan(resolve(str(path), Home(tmp_path)), settings)
    decoder = RwkvDecoder(tiny_model(version), slots=3)
    assert planned.cache_bytes == 3 * decoder.store.nbytes_a_slot
    longer = plan(resolve(str(path), Home(tmp_path)), RuntimeSettings(slots=3, context=4096))
    assert longer.total_bytes == planned.total_bytes


@torch.inference_mode()
@pytest.mark.parametrize("version", VERSIONS)
def test_a_state_is_kept_forked_and_read_again(version: str, tmp_path: Path) -> None:
    reader = RwkvReader(tiny_model(version))
    _, middle = reader.read(tokens(20, 4), None)
    whole, _ = reader.read([*tokens(20, 4), 5, 6], None)
    middle.save(tmp_path / "state.safetensors")
    one, _ = reader.read([5, 6], middle)
    other, _ = reader.read([9], middle)
    again, _ = reader.read([5, 6], middle)  # the other fork has left it as it was
    assert (one == again).all()
    assert not (one == other).all()
    assert abs(one - whole).max() < 1e-4
    read = tiny_model(version).new_state()
    read.read(tmp_path / "state.safetensors")
    assert (reader.read([5, 6], read)[0] == one).all()


def test_a_state_of_another_model_is_refused(tmp_path: Path) -> None:
    tiny_model("7").new_state().save(tmp_path / "state.safetensors")
    with pytest.raises(InvalidRequest, match="other shapes"):
        tiny_model("7", width=128).new_state().read(tmp_path / "state.safetensors")
    (tmp_path / "none.safetensors").write_bytes(b"no state")
    with pytest.raises(Damaged):
        tiny_model("7").new_state().read(tmp_path / "none.safetensors")


# --- releases ---------------------------------------------------------------------------------------------------


@torch.inference_mode()
@pytest.mark.parametrize("version", VERSIONS)
def test_a_release_is_what_was_saved(version: str, tmp_path: Path) -> None:
    path = write_release(tmp_path / "model.pth", version, vocabulary=300)
    model = load_rwkv(path)
    ids = torch.tensor([tokens(9, 5)])
    expected = tiny_model(version).bfloat16().float()
    assert (model(ids).logits - expected(ids).logits).abs().max() < 0.15  # the first norm is rounded to bfloat16
    assert model.config.version == version


@torch.inference_mode()
@pytest.mark.parametrize("version", ["5.2", "6"])
def test_a_tuned_first_state_is_where_every_text_begins(version: str, tmp_path: Path) -> None:
    plain = load_rwkv(write_release(tmp_path / "model.pth", version, vocabulary=300))
    stored = torch.load(tmp_path / "model.pth", weights_only=True)
    tuned = [torch.randn(2, 32, 32, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    for i, state in enumerate(tuned):
        stored[f"blocks.{i}.att.time_state"] = state  # [heads, value, key]
    torch.save(stored, tmp_path / "tuned.pth")
    model = load_rwkv(tmp_path / "tuned.pth")
    ids = torch.tensor([tokens(5, 6)])
    state = plain.new_state()
    for layer, memory in zip(state.layers, tuned, strict=True):
        layer.memory[0][0] = memory.transpose(1, 2)
    expected = plain(ids, state=state).logits
    assert torch.equal(model(ids).logits, expected)
    assert not torch.equal(plain(ids).logits, expected)
    used = model.new_state()
    model(ids, state=used)
    used.clear(0)
    assert torch.equal(model(ids, state=used).logits, expected)


def test_missing_surplus_and_misshapen_tensors_are_named(tmp_path: Path) -> None:
    sound = torch.load(write_release(tmp_path / "model.pth", "7", vocabulary=300), weights_only=True)
    broken = {
        "ln_out.weight": {k: v for k, v in sound.items() if k != "ln_out.weight"},
        "blocks.1.att.more": {**sound, "blocks.1.att.more": torch.zeros(3)},
        "blocks.1.ffn.key.weight": {**sound, "blocks.1.ffn.key.weight": torch.zeros(3, 3)},
    }
    for name, tensors in broken.items():
        torch.save(tensors, tmp_path / "broken.pth")
        with pytest.raises(Damaged, match=name.replace(".", r"\.")):
            load_rwkv(tmp_path / "broken.pth")


def test_other_files_and_converted_ones_are_refused(tmp_path: Path) -> None:
    torch.save({"model.embed_tokens.weight": torch.zeros(3, 3)}, tmp_path / "llama.pth")
    with pytest.raises(Unsupported, match=r"emb\.weight"):
        load_rwkv(tmp_path / "llama.pth")
    sound = torch.load(write_release(tmp_path / "model.pth", "4", vocabulary=300), weights_only=True)
    torch.save({**sound, "_strategy": "cuda fp16i8", "_version": 0.7}, tmp_path / "converted.pth")
    with pytest.raises(Unsupported, match="cuda fp16i8"):
        load_rwkv(tmp_path / "converted.pth")


class Canary:
    """Unpickling it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_malicious_release_is_not_executed(tmp_path: Path) -> None:
    torch.save({"emb.weight": Canary(tmp_path / "ran")}, tmp_path / "evil.pth")
    with pytest.raises(Damaged, match="refused"):
        load_rwkv(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="hardware: the devices are here")
def test_a_strategy_for_absent_devices_is_refused_before_loading(tmp_path: Path) -> None:
    path = write_release(tmp_path / "model.pth", "6", vocabulary=300)
    for strategy in ("cuda fp16i8 *1 -> cpu fp32", "mps fp16", "dml fp32"):
        with pytest.raises(Unsupported, match=strategy.split()[0]):
            load_rwkv(path, strategy=strategy)
