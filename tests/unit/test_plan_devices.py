"""Memory of each device: what cards hold, what main memory holds, and how layers are shared. Arithmetic only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ninestory.core.config import RuntimeSettings
from ninestory.core.machine import FreeMemory, Gpu, cuda_cards
from ninestory.models.catalogue import find
from ninestory.models.plan import RAM, Plan
from ninestory.models.shapes import ModelShape, ModelSizes
from ninestory.runtimes.plan import plan_variant
from ninestory.runtimes.torch.plan import Placement, place
from ninestory.runtimes.torch.plan import plan as plan_torch
from ninestory.training.plan import TunedShape, TuningJob, plan_tuning
from tests.fake_cards import path_with_cards

GB = 1 << 30
SHAPE = ModelShape(layers=10, hidden=1024, kv_heads=8, head_dim=128, ffn=4096, vocabulary=1000, heads=8)
SIZES = ModelSizes(model="m", family="llama", tasks=("chat",), shape=SHAPE, stored_bytes=4 * GB, context=1024, slots=1)


def machine(*cards: float, ram: float = 64) -> FreeMemory:
    """Memory with so many GiB free."""
    sizes = [int(card * GB) for card in cards]
    return FreeMemory(
        int(ram * GB), {f"cuda:{i}": Gpu("card", nbytes, nbytes, cuda=True) for i, nbytes in enumerate(sizes)}
    )


def published(name: str, free: FreeMemory, **settings: object) -> Plan:
    system, _, variant = name.partition(":")
    [one] = [v for v in find(system).variants if v.name == variant]
    return plan_variant(find(system), one, RuntimeSettings(**settings), free)  # type: ignore[arg-type]


def test_one_card_takes_the_whole_model_and_main_memory_the_process() -> None:
    plan = plan_torch(SIZES, RuntimeSettings(), machine(8, 12))
    ram, first, second = plan.devices
    assert (ram.device, first.device, second.device) == (RAM, "cuda:0", "cuda:1")
    assert ram.weight_bytes == ram.cache_bytes == first.needed_bytes == 0  # the freest card holds all of it
    assert second.weight_bytes == pytest.approx(4 * GB, rel=1e-6)
    assert second.cache_bytes == 2 * 10 * 1024 * 1024 * 2 and ram.process_bytes > 0
    assert plan.fits and plan.total_bytes == ram.needed_bytes + second.needed_bytes
    assert plan.needed == {RAM: ram.needed_bytes, "cuda:1": second.needed_bytes}


def test_several_cards_share_whole_layers_and_none_is_cut() -> None:
    free = machine(4, 2)
    placement = place(SIZES, RuntimeSettings(), free)
    assert placement is not None
    assert (placement.layers.count("cuda:0"), placement.layers.count("cuda:1")) == (7, 3)
    crossings = sum(a != b for a, b in zip(placement.layers, placement.layers[1:], strict=False))
    assert crossings == 1  # a token passes from card to card once
    plan = plan_torch(SIZES, RuntimeSettings(), free)
    assert plan.fits and plan.weight_bytes == pytest.approx(4 * GB, rel=1e-6)
    # What not even all cards hold is not offloaded: the plan says that it does not fit.
    assert not plan_torch(SIZES, RuntimeSettings(), machine(2, 2)).fits


def test_a_named_device_is_the_only_one() -> None:
    one = RuntimeSettings(device="cuda:1")
    assert place(SIZES, one, machine(12, 2)) == Placement("cuda:1", ("cuda:1",) * 10, "cuda:1")
    assert not plan_torch(SIZES, one, machine(12, 2)).fits
    on_processor = plan_torch(SIZES, RuntimeSettings(device="cpu"), machine(12))
    assert on_processor.devices[0].weight_bytes == 8 * GB and on_processor.devices[1].needed_bytes == 0


def test_packing_while_loading_needs_the_float_weights_in_main_memory() -> None:
    plan = plan_torch(SIZES, RuntimeSettings(dtype="int4"), machine(8))
    assert plan.devices[0].needed_bytes > 4 * GB
    assert plan.devices[1].weight_bytes < 1.1 * GB


def test_moss_takes_two_cards_of_24_gb_in_fp16_and_one_in_int4() -> None:
    two, one = machine(24, 24), machine(24)
    assert published("moss:sft", two).fits
    assert not published("moss:sft", one).fits
    assert published("moss:sft-int4", one).fits


@pytest.mark.parametrize(("variant", "card", "smaller"), [("fp16", 14, 12), ("int8", 8, 7), ("int4", 6, 5)])
def test_chatglm_6b_takes_the_card_it_is_published_for(variant: str, card: float, smaller: float) -> None:
    assert published(f"chatglm-6b:{variant}", machine(card), slots=1).fits
    assert not published(f"chatglm-6b:{variant}", machine(smaller), slots=1).fits


def test_a_65b_model_is_tuned_by_qlora_on_one_card_of_48_gb() -> None:
    [variant] = [v for v in find("guanaco").variants if v.name == "65b"]
    assert variant.shape is not None
    shape = TunedShape(variant.shape, tied=False)
    job = TuningJob("qlora", 528, 264, rank=64, checkpointing=True, optimizer="paged_adamw_32bit")
    plan = plan_tuning("guanaco:65b", shape, job, free=machine(48))
    ram, card = plan.devices
    assert plan.fits and 38 * GB < card.needed_bytes < 44 * GB  # the paper: 41 GB
    assert ram.optimizer_bytes == 8 * plan.trainable  # paged averages move to main memory
    assert not plan_tuning("guanaco:65b", shape, job, free=machine(24)).fits
    lora = TuningJob("lora", 528, 264, rank=64, checkpointing=True)
    assert not plan_tuning("guanaco:65b", shape, lora, free=machine(48)).fits


def test_tuning_takes_one_card_even_where_there_are_more() -> None:
    job = TuningJob("lora", 256, 128)
    plan = plan_tuning("m", TunedShape(SHAPE, tied=True), job, free=machine(8, 80))
    assert set(plan.needed) == {RAM, "cuda:0"}  # a process of `tune` trains on the card of its local rank
    assert plan.as_dict()["devices"][1]["optimizer_bytes"] == 12 * plan.trainable


def test_cards_hidden_from_cuda_are_hidden_from_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", path_with_cards(tmp_path, 1000, 2000))
    assert [card.free_bytes >> 20 for card in cuda_cards().values()] == [1000, 2000]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert cuda_cards() == {"cuda:0": Gpu("NVIDIA Test 2000", 2000 << 20, 2000 << 20, cuda=True)}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert cuda_cards() == {}


@pytest.mark.slow
def test_the_plan_route_and_the_verb_import_no_heavy_module() -> None:
    code = (
        "import sys, ninestory.cli.plan, ninestory.serving.routes.plan; from ninestory.library import plan; plan('moss');"
        "print(sorted({'torch', 'numpy', 'transformers', 'peft', 'xllamacpp', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr + done.stdout
