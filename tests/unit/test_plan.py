"""The arithmetic of memory, on numbers that can be checked by hand."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from ninestory.core.config import RuntimeSettings
from ninestory.core.machine import FreeMemory
from ninestory.models.plan import Plan, largest_that_fits
from ninestory.models.read_sizes import shape_of
from ninestory.models.resolved import ResolvedModel
from ninestory.models.shapes import ModelShape, ModelSizes, kv_bytes, parameters
from ninestory.runtimes.llamacpp.plan import plan as plan_llamacpp
from ninestory.runtimes.plan import plan
from tests import tiny_models

SEVEN_B = ModelShape(layers=32, hidden=4096, kv_heads=32, head_dim=128, ffn=11008, vocabulary=32000, heads=32)


def test_the_cache_of_llama_7b_is_half_a_megabyte_a_token() -> None:
    assert kv_bytes(SEVEN_B, tokens=1, itemsize=2) == 512 * 1024
    grouped = dataclasses.replace(SEVEN_B, kv_heads=8)
    assert kv_bytes(grouped, tokens=1, itemsize=2) == 128 * 1024


def test_llama_7b_has_the_parameters_it_is_known_for() -> None:
    norms = 32 * 2 * 4096 + 4096
    assert parameters(SEVEN_B) + norms == 6_738_415_616


def _plan(context: int, slots: int, *, weights: int = 4 << 30, free: int = 20 << 30) -> Plan:
    sizes = ModelSizes(
        model=str(weights),
        family="llama",
        tasks=("chat",),
        shape=SEVEN_B,
        stored_bytes=weights,
        context=context,
        slots=slots,
    )
    made = plan_llamacpp(sizes, RuntimeSettings(), FreeMemory(free))
    assert made.total_bytes == sum(
        (made.process_bytes, made.weight_bytes, made.cache_bytes, made.activation_bytes, made.optimizer_bytes)
    )
    return made


def test_every_slot_has_a_context_of_its_own() -> None:
    one, four, longer = _plan(1024, 1), _plan(1024, 4), _plan(4096, 1)
    assert four.cache_bytes - one.cache_bytes == 3 * 1024 * 512 * 1024
    assert longer.cache_bytes == four.cache_bytes
    assert four.activation_bytes > one.activation_bytes  # logits and samplers of each slot


def test_the_largest_variant_that_fits_is_named() -> None:
    sizes = (4 << 30, 8 << 30, 1 << 60)
    best = largest_that_fits([_plan(512, 1, weights=weights) for weights in sizes])
    assert best is not None and best.model == str(8 << 30)
    assert largest_that_fits([_plan(512, 1, weights=weights, free=1) for weights in sizes]) is None


def _model(path: Path, form: str, nbytes: int = 0) -> ResolvedModel:
    return ResolvedModel(
        reference=str(path),
        path=path,
        format=form,
        architecture="llama",
        tasks=("chat",),
        context=128,
        total_bytes=nbytes,
    )  # type: ignore[arg-type]


def test_the_shape_comes_from_the_gguf_header(tmp_path: Path) -> None:
    path = tiny_models.write_gguf(tmp_path / "m.gguf")
    shape = shape_of(_model(path, "gguf"))
    assert shape == ModelShape(
        layers=2, hidden=64, kv_heads=2, head_dim=16, ffn=96, vocabulary=len(tiny_models.VOCABULARY), heads=4
    )
    made = plan(
        _model(path, "gguf", path.stat().st_size),
        RuntimeSettings(context=64, slots=2, prompt_cache_mb=3),
        FreeMemory(1 << 30),
    )
    assert made.weight_bytes == path.stat().st_size
    assert made.cache_bytes == 2 * 2 * 2 * 16 * (2 * 256) * 2 + (3 << 20)  # 64 tokens take 256 cells


def test_the_shape_comes_from_each_familys_config(tmp_path: Path) -> None:
    configs = {
        "llama": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
                  "intermediate_size": 96, "vocab_size": 300},
        "bloom": {"n_embed": 64, "n_layer": 2, "n_head": 4, "vocab_size": 300},
        "falcon": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "multi_query": True,
                   "vocab_size": 300},
        "chatglm": {"hidden_size": 64, "num_layers": 2, "num_attention_heads": 4, "inner_hidden_size": 256,
                    "vocab_size": 300},
        "moss": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_inner": None, "vocab_size": 300},
    }  # fmt: skip
    key_heads = {"llama": 2, "falcon": 1}
    for family, config in configs.items():
        (tmp_path / "config.json").write_text(json.dumps(config))
        shape = shape_of(_model(tmp_path, "safetensors"))
        assert shape is not None, family
        assert (shape.layers, shape.hidden, shape.head_dim, shape.vocabulary) == (2, 64, 16, 300), family
        assert shape.kv_heads == key_heads.get(family, 4), family
        assert shape.ffn == (96 if family == "llama" else 256), family


def test_float32_weights_take_twice_what_bfloat16_takes(tmp_path: Path) -> None:
    config = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 300}
    (tmp_path / "config.json").write_text(json.dumps(config))
    full, half, quarter = (
        plan(_model(tmp_path, "safetensors"), RuntimeSettings(dtype=dtype), FreeMemory(1 << 40))
        for dtype in ("float32", "bfloat16", "int8")
    )
    assert full.weight_bytes == 2 * half.weight_bytes == 4 * quarter.weight_bytes
    assert full.cache_bytes == 2 * half.cache_bytes == quarter.cache_bytes


def test_tuning_is_planned_for_what_is_installed_and_for_what_is_only_in_the_catalogue(tmp_path: Path) -> None:
    from ninestory.core.paths import Home
    from ninestory.training.plan import TuningJob, tuning_plans_for

    jobs = [TuningJob("lora", 512, 256), TuningJob("full", 512, 256)]
    file = tiny_models.write_gguf(tmp_path / "tiny.gguf")
    small, whole = tuning_plans_for(str(file), jobs, Home(tmp_path))
    assert small.trainable < whole.trainable and small.total_bytes == sum(
        (small.process_bytes, small.weight_bytes, small.optimizer_bytes, small.activation_bytes)
    )
    glm = tuning_plans_for("chatglm-6b:fp16", jobs, Home(tmp_path))[0].weight_bytes
    assert abs(glm / (4 * 6.17e9) - 1) < 0.02  # 6.17 billion parameters


def test_tables_trained_beside_lora_are_planned_and_a_shared_one_counts_once() -> None:
    from ninestory.training.plan import TunedShape, TuningJob, plan_tuning

    sizes = ModelShape(layers=4, hidden=512, kv_heads=2, head_dim=64, ffn=1408, vocabulary=32768, heads=8)
    table = 32768 * 512
    both = ("embed_tokens", "lm_head")
    for tied, modules, tables in (
        (True, both, 1),
        (True, ("embed_tokens",), 1),
        (False, both, 2),
        (False, both[1:], 1),
    ):
        shape = TunedShape(sizes, tied)
        bare, saved = (plan_tuning("m", shape, TuningJob("lora", 512, 256, modules_to_save=m)) for m in ((), modules))
        assert saved.trainable - bare.trainable == tables * table
        # a copy beside the frozen one, and Adam's two averages
        assert saved.optimizer_bytes - bare.optimizer_bytes == tables * table * 12
        assert saved.activation_bytes > bare.activation_bytes
        prefix = TuningJob("prefix", 512, 256, modules_to_save=modules)  # which has no such thing
        assert plan_tuning("m", shape, prefix) == dataclasses.replace(
            plan_tuning("m", shape, dataclasses.replace(prefix, modules_to_save=())), job=prefix
        )


@pytest.mark.torch
def test_the_time_of_a_step_follows_its_arithmetic_and_the_speed_of_this_machine() -> None:
    pytest.importorskip("torch")
    from ninestory.training.duration import block_speed, step_operations, step_seconds
    from ninestory.training.plan import TunedShape, TuningJob

    sizes = ModelShape(layers=4, hidden=128, kv_heads=2, head_dim=64, ffn=256, vocabulary=1000, heads=2)
    shape = TunedShape(sizes, tied=True)
    blocks = 4 * (4 * 128 * 128 + 3 * 128 * 256)
    work = {
        m: step_operations(shape, TuningJob(m, 64, 32, trainable_layers=2), 64, 32)
        for m in ("full", "lora", "freeze", "ia3")
    }
    assert work["full"] == 2 * (64 * 3 * blocks + 32 * 3 * 128 * 1000)
    assert work["freeze"] == 2 * (64 * 2 * blocks + 32 * 2 * 128 * 1000)
    assert work["full"] > work["lora"] > work["ia3"] > 2 * 64 * 2 * blocks
    again = step_operations(shape, TuningJob("lora", 64, 32, checkpointing=True), 64, 32)
    assert again - work["lora"] == 2 * 64 * blocks
    assert step_operations(shape, TuningJob("qlora", 64, 32), 64, 32) > 2 * work["lora"]  # packed weights are widened
    assert block_speed(shape) > 0 and step_seconds(shape, TuningJob("lora", 64, 32), 64, 32) > 0


def test_a_tuning_plan_loads_no_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys; import ninestory.training.plan, ninestory.training.method_spec, ninestory.training.settings;"
        "print(sorted({'torch', 'numpy', 'peft', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
