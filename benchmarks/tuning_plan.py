"""The memory plan of tuning against measured peaks, every method: one process a configuration.

    python benchmarks/tuning_plan.py [FROM TO]     (some ten minutes on a quiet machine, or the runs from FROM to TO
                                                    in pieces; `fit` = the three that the formula was settled on)

The formula counts what each method keeps; its one free constant, the process, was settled on FITTED. A process
loads a random model as a run does, makes two steps through `Training.run` (in the second Adam's averages are there),
and reports its largest resident memory, the import of torch, transformers and peft counted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

STEPS = 2
ALLOWED = {"lora": 0.05, "full": 0.05, "freeze": 0.05, "qlora": 0.10, "gptq": 0.10, "p_tuning_v2": 0.10}  # else 0.15


@dataclass(frozen=True)
class Configuration:
    """One measured run. `rows` of `length` tokens a step, all in one micro-batch; half of each is learned."""

    method: str
    layers: int = 6
    hidden: int = 512
    ffn: int = 1408
    vocabulary: int = 32768
    rows: int = 4
    length: int = 200
    kv_heads: int = 2
    rank: int = 8
    checkpointing: bool = False
    tied: bool = True
    objective: str = "sft"
    modules_to_save: tuple[str, ...] = ()


TABLES = ("embed_tokens", "lm_head")
C = Configuration
FITTED = [C("lora"), C("lora", checkpointing=True, rows=8), C("lora", vocabulary=4096, rows=8)]
CHECKED = [
    C("full"), C("full", vocabulary=4096, rows=8), C("freeze", rows=8), C("dora"), C("adalora"), C("ia3", rows=8),
    C("prompt", rows=8), C("prefix", rows=8), C("qlora", rows=2), C("gptq"), C("p_tuning_v2", rows=8, ffn=2048),
    C("lora", hidden=768, ffn=2048, layers=4), C("lora", vocabulary=98304, layers=3, rows=6), C("lora", rank=64, rows=3),
    C("lora", layers=12, hidden=384, ffn=1024, rows=6), C("lora", hidden=768, ffn=2048, kv_heads=12, checkpointing=True),
    C("lora", tied=False, length=400, rows=2), C("rslora", layers=8, length=90), C("full", hidden=384, ffn=1024, rows=6),
    C("full", layers=8, checkpointing=True, length=300), C("full", tied=False, vocabulary=8192, rows=6),
    C("freeze", layers=10, hidden=640, ffn=1792), C("freeze", vocabulary=65536, rows=6),
    C("freeze", hidden=384, ffn=1536, kv_heads=6, checkpointing=True, rows=10),
    C("qlora", layers=12, hidden=768, ffn=2048, checkpointing=True), C("qlora", vocabulary=8192, rows=6),
    C("qlora", hidden=640, ffn=1792, length=400, rows=2),
    C("gptq", layers=8, checkpointing=True, rows=6), C("gptq", hidden=768, ffn=2048, layers=4),
    C("p_tuning_v2", layers=8, hidden=512, ffn=2048), C("p_tuning_v2", hidden=768, ffn=3072, layers=4, vocabulary=8192),
    C("dora", hidden=640, ffn=1792, layers=4, rows=3), C("dora", vocabulary=8192, checkpointing=True, rows=6),
    C("adalora", hidden=768, ffn=2048, layers=4), C("adalora", layers=10, rows=3, rank=16),
    C("ia3", hidden=768, ffn=2048, layers=4), C("ia3", layers=10, length=300), C("prompt", layers=8, length=120),
    C("prompt", hidden=768, ffn=2048, layers=4), C("prefix", layers=8, length=120),
    C("prefix", hidden=768, ffn=2048, layers=4), C("lora", objective="dpo", length=150),
    C("lora", objective="dpo", vocabulary=65536, layers=8, checkpointing=True, length=150),
    C("full", objective="dpo", hidden=384, ffn=1024, length=150), C("lora", modules_to_save=TABLES),
    C("lora", modules_to_save=TABLES, tied=False, layers=4, checkpointing=True),
    C("qlora", modules_to_save=TABLES, tied=False, vocabulary=16384, layers=8),
]  # fmt: skip


def main(chosen: list[Configuration]) -> None:
    """Measure; the tables are Markdown."""
    print(
        "| method | layers × hidden / MLP, vocabulary | tokens a step | checkpointing | planned MB | peak MB | error "
        "| s a step, estimated | taken |"
    )
    print("|---|---|---:|---|---:|---:|---:|---:|---:|")
    errors: dict[str, list[float]] = {}
    for configuration in chosen:
        found = in_a_process(configuration)
        error = found["planned"] / found["peak"] - 1
        errors.setdefault(configuration.method, []).append(error)
        c = configuration
        shape = f"{c.layers} × {c.hidden} / {c.ffn}, {c.vocabulary}" + ("" if c.tied else ", head apart")
        named = c.method + (", DPO" if c.objective == "dpo" else "") + (", tables trained" if c.modules_to_save else "")
        cells = (named, shape, str(_tokens(c)), "yes" if c.checkpointing else "")
        memory = f"{found['planned'] / 1e6:.0f} | {found['peak'] / 1e6:.0f} | {error:+.1%}"
        print(f"| {' | '.join(cells)} | {memory} | {found['estimated']:.2f} | {found['taken']:.2f} |")
        sys.stdout.flush()
        print(found["parts"], file=sys.stderr, flush=True)
    print("\n| method | runs | worst | allowed |\n|---|---:|---:|---:|")
    for method, values in errors.items():
        worst = max(values, key=abs)
        print(f"| {method} | {len(values)} | {worst:+.1%} | {ALLOWED.get(method, 0.15):.0%} |")
    every = [error for values in errors.values() for error in values]
    mean = sum(map(abs, every)) / len(every)
    print(f"\n{len(every)} runs; worst {max(every, key=abs):+.1%}, mean of absolutes {mean:.1%}.")


def in_a_process(configuration: Configuration) -> dict[str, Any]:
    """The checkpoint is written here, so that the measured process holds nothing but the run."""
    with tempfile.TemporaryDirectory() as folder:
        base = written(configuration, Path(folder))
        command = [sys.executable, __file__, json.dumps(vars(configuration)), str(base)]
        environ = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environ)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def written(configuration: Configuration, folder: Path) -> Path:
    """A random checkpoint of the configuration's shape, packed where the method asks for it."""
    import torch

    from ninestory.core.progress import Silent

    c, base = configuration, folder / "base"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        _model(c).float().save_pretrained(base)
    if c.method == "qlora":
        from ninestory.training.nf4_checkpoint import convert_to_nf4

        return convert_to_nf4(base, folder / "nf4", Silent())
    return _gptq(base, folder / "gptq") if c.method == "gptq" else base


def _model(c: Configuration) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    if c.method == "p_tuning_v2":
        from ninestory.architectures.chatglm import ChatGLMConfig, ChatGLMForConditionalGeneration

        return ChatGLMForConditionalGeneration(ChatGLMConfig(
            hidden_size=c.hidden, inner_hidden_size=c.ffn, num_layers=c.layers, num_attention_heads=c.hidden // 64,
            vocab_size=c.vocabulary, max_sequence_length=1024, **_special(c.vocabulary),
        ))  # fmt: skip
    return LlamaForCausalLM(LlamaConfig(
        hidden_size=c.hidden, intermediate_size=c.ffn, num_hidden_layers=c.layers, num_attention_heads=c.hidden // 64,
        num_key_value_heads=c.kv_heads, vocab_size=c.vocabulary, tie_word_embeddings=c.tied,
        max_position_embeddings=1024,
    ))  # fmt: skip


def _special(vocabulary: int) -> dict[str, int]:
    names = ("bos_token_id", "eos_token_id", "mask_token_id", "gmask_token_id", "pad_token_id")
    return {name: vocabulary - 1 - i for i, name in enumerate(names)}


def _gptq(base: Path, target: Path) -> Path:
    """GPTQ's layout with the plain nearest codes: the memory is that of a calibrated pack."""
    from safetensors.torch import load_file, save_file

    from ninestory.architectures.gptq_calibration import round_to_nearest
    from ninestory.architectures.gptq_linear import GPTQLinear

    target.mkdir()
    tensors: dict[str, Any] = {}
    for name, weight in load_file(base / "model.safetensors").items():
        if not name.endswith("proj.weight"):
            tensors[name] = weight
            continue
        packed = GPTQLinear.from_quantized(round_to_nearest(weight, 4, 128), 4)
        tensors |= {f"{name.removesuffix('weight')}{part}": value for part, value in packed.state_dict().items()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, target / "model.safetensors")
    config = json.loads((base / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 128, "checkpoint_format": "gptq"}
    (target / "config.json").write_text(json.dumps(config))
    return target


# --- the measured process ---------------------------------------------------------------------------------------


def measure(configuration: Configuration, base: Path) -> dict[str, Any]:
    import peft  # noqa: F401  counted as imported, not as the run's

    from ninestory.core.memory import fix_malloc_thresholds
    from ninestory.core.progress import Silent
    from ninestory.models.resolved import ResolvedModel
    from ninestory.runtimes.torch.load_model import load_model
    from ninestory.training.duration import step_seconds
    from ninestory.training.methods import adapt_model
    from ninestory.training.objectives.causal import causal_objective
    from ninestory.training.objectives.preference import preference_objective
    from ninestory.training.optimizers import make_optimizer
    from ninestory.training.run_folder import RunFolder
    from ninestory.training.settings import Method, TrainSettings
    from ninestory.training.trainer import Trainer

    fix_malloc_thresholds()
    c = configuration
    resolved = ResolvedModel(
        reference="m", path=base, format="safetensors", architecture=_architecture(base), tasks=("chat",), context=1024
    )
    method = Method(
        name="lora" if c.method == "gptq" else c.method,  # type: ignore[arg-type]
        rank=c.rank,
        modules_to_save=list(c.modules_to_save),
    )
    settings = TrainSettings(
        max_steps=STEPS,
        batch_size=c.rows,
        micro_batch_tokens=1 << 20,
        save_every=0,
        gradient_checkpointing=c.checkpointing,
    )
    imported = _memory("VmRSS")
    model = load_model(resolved)[0]
    rows = _rows(c)
    if c.objective == "dpo":
        rows = _with_reference(rows, model, base)
    adapted = adapt_model(model, method, seed=0, total_steps=STEPS)
    objective = preference_objective(0.1) if c.objective == "dpo" else causal_objective
    optimizer = partial(make_optimizer, settings)
    Trainer(adapted, objective, optimizer, rows, [], settings, RunFolder(base), Silent()).run()
    peak = _memory("VmHWM")
    plan = _planned(c, resolved)
    *_, last = RunFolder(base).lines("step")
    taken = last["tokens"] / last["tokens_per_second"]
    estimated = step_seconds(_shape(resolved), plan.job, plan.job.tokens, plan.job.labels)
    parts = {name: round(value / 1e6) for name, value in vars(plan).items() if name.endswith("_bytes")}
    memory = {"peak": peak, "imported": imported, "planned": plan.total_bytes, "parts": parts}
    return {**memory, "estimated": estimated, "taken": taken}


def _with_reference(rows: list[Any], model: Any, folder: Path) -> Any:
    """Pairs of neighbours, and what the base thinks of them, as a run takes it before its first step."""
    from ninestory.core.progress import Silent
    from ninestory.training.batches import PreferencePair
    from ninestory.training.objectives.causal import CausalObjective
    from ninestory.training.objectives.preference import PairsWithReference, reference_log_probabilities

    pairs = [PreferencePair(*rows[i : i + 2]) for i in range(0, len(rows), 2)]
    kept = folder / "reference.bin"
    return PairsWithReference(
        pairs, reference_log_probabilities(CausalObjective(model), pairs, range(len(pairs)), 1 << 20, Silent(), kept)
    )


def _memory(field: str) -> int:
    """Bytes. Not getrusage: its maximum is that of the parent before the process became this program."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def _architecture(base: Path) -> str:
    return json.loads((base / "config.json").read_text())["model_type"]


def _rows(c: Configuration) -> list[Any]:
    import torch

    from ninestory.training.batches import TokenRow

    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(c.rows * STEPS * (2 if c.objective == "dpo" else 1)):
        ids = torch.randint(1, c.vocabulary - 8, (c.length,), generator=generator).tolist()
        if c.method == "p_tuning_v2":
            ids[c.length // 2 - 2 : c.length // 2] = [c.vocabulary - 4, c.vocabulary - 1]
        made.append(TokenRow(ids, [-100] * (c.length // 2) + ids[c.length // 2 :]))
    return made


def _tokens(c: Configuration) -> int:
    """Of a step: a row of preferences is two texts."""
    return c.rows * c.length * (2 if c.objective == "dpo" else 1)


def _planned(c: Configuration, resolved: Any) -> Any:
    """As `floors/finetuning/preparation.py` asks for it."""
    from ninestory.core.machine import FreeMemory
    from ninestory.training.plan import TuningJob, plan_tuning

    answers = _tokens(c) // c.length
    job = TuningJob(
        "lora" if c.method == "gptq" else c.method, _tokens(c), answers * (c.length - c.length // 2), c.rank,
        checkpointing=c.checkpointing, modules_to_save=tuple(c.modules_to_save),
    )  # fmt: skip
    return plan_tuning("m", _shape(resolved), job, free=FreeMemory(0))


def _shape(resolved: Any) -> Any:
    from ninestory.training.plan import tuned_shape

    shape = tuned_shape(resolved)
    assert shape is not None
    return shape


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1].startswith("{"):
        print(json.dumps(measure(Configuration(**json.loads(sys.argv[1])), Path(sys.argv[2]))))
    else:
        main(FITTED if sys.argv[1:] == ["fit"] else CHECKED[slice(*[int(place) for place in sys.argv[1:]] or [None])])
