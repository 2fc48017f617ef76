"""Peak memory of tuning against its plan, and our step against peft + transformers' Trainer.

    python benchmarks/tuning.py > benchmarks/results/tuning.md

Each row is a process of its own on a random LLaMA of the given shape; tokens are counted per CPU-second, so that other
work on the machine weighs little. Both sides of the comparison take the same rows in the same order, LoRA r = 8 on all
linears, float32, AdamW; their losses are printed side by side.
"""

from __future__ import annotations

import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROWS_SEED, LONGEST = 0, 384


@dataclass(frozen=True)
class Configuration:
    """One measured run. `rows`: of one step, all in one micro-batch."""

    method: str
    layers: int = 6
    hidden: int = 512
    ffn: int = 1408
    vocabulary: int = 32768
    rows: int = 6
    checkpointing: bool = False
    loop: str = "ours"


CONFIGURATIONS = [
    Configuration("lora"),
    Configuration("lora", checkpointing=True),
    Configuration("lora", vocabulary=98304, layers=4),
    Configuration("full"),
    Configuration("full", checkpointing=True, hidden=384, ffn=1024),
    Configuration("freeze"),
    Configuration("dora"),
    Configuration("adalora"),
    Configuration("ia3"),
    Configuration("prompt"),
    Configuration("prefix"),
    Configuration("qlora"),
]
COMPARED = [Configuration("lora", loop=loop) for loop in ("ours", "trainer")]
STEPS = 3  # the first is not timed


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(measure(Configuration(**json.loads(sys.argv[1])))))
        return
    print(f"# Tuning\n\n{platform.processor() or platform.machine()}, {processor()}, one thread.\n")
    print("## Peak memory: plan against measurement\n")
    print(
        "| method | layers × hidden, vocabulary | checkpointing | planned MB | measured MB | error |\n|---|---|---|---|---|---|"
    )
    for configuration in CONFIGURATIONS:
        found = in_a_process(configuration)
        error = found["planned"] / found["peak"] - 1
        shape = f"{configuration.layers} × {configuration.hidden}, {configuration.vocabulary}"
        cells = (configuration.method, shape, "yes" if configuration.checkpointing else "")
        print(
            f"| {' | '.join(cells)} | {found['planned'] / 1e6:.0f} | {found['peak'] / 1e6:.0f} | {error:+.1%} |",
            flush=True,
        )
    print("\n## Speed and memory against peft + Trainer (padded), same rows\n")
    print("| loop | real tokens per CPU-second | peak MB | losses |\n|---|---|---|---|")
    for configuration in COMPARED:
        found = in_a_process(configuration)
        losses = ", ".join(f"{loss:.4f}" for loss in found["losses"])
        print(f"| {configuration.loop} | {found['speed']:.0f} | {found['peak'] / 1e6:.0f} | {losses} |", flush=True)


def in_a_process(configuration: Configuration) -> dict[str, Any]:
    command = [sys.executable, __file__, json.dumps(vars(configuration))]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")


def measure(configuration: Configuration) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    rows = texts(configuration)
    with tempfile.TemporaryDirectory() as folder:
        run = trainer if configuration.loop == "trainer" else ours
        losses, speed = run(configuration, rows, Path(folder))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"peak": peak, "losses": losses, "speed": speed, "planned": planned(configuration, rows)}


def texts(configuration: Configuration) -> list[Any]:
    """Log-normal lengths (median 100), the second half learned: a mixed instruction set."""
    import torch

    from ninestory.training.batches import Row

    generator = torch.Generator().manual_seed(ROWS_SEED)
    made = []
    for _ in range(configuration.rows * STEPS):
        length = int((torch.randn(1, generator=generator) * 0.8 + 4.6).exp().clamp(8, LONGEST))
        ids = torch.randint(1, configuration.vocabulary, (length,), generator=generator).tolist()
        made.append(Row(ids, [-100] * (length // 2) + ids[length // 2 :]))
    return made


def model(configuration: Configuration, folder: Path) -> Any:
    """Written and read again, as a run reads its base; QLoRA from a 4-bit copy."""
    from transformers import LlamaConfig

    from ninestory.models.resolved import ResolvedModel
    from ninestory.runtimes.torch.load_model import load_model

    config = LlamaConfig(
        hidden_size=configuration.hidden, intermediate_size=configuration.ffn, num_hidden_layers=configuration.layers,
        num_attention_heads=configuration.hidden // 64, num_key_value_heads=2, vocab_size=configuration.vocabulary,
        tie_word_embeddings=True, max_position_embeddings=1024,
    )  # fmt: skip
    writer = (
        f"import torch; torch.manual_seed(0)\nfrom transformers import LlamaConfig, LlamaForCausalLM\n"
        f"LlamaForCausalLM(LlamaConfig.from_dict({config.to_diff_dict()!r})).float().save_pretrained({str(folder / 'base')!r})"
    )
    subprocess.run([sys.executable, "-c", writer], check=True, capture_output=True)
    path = folder / "base"
    if configuration.method == "qlora":
        make = (
            "import sys; from pathlib import Path; from ninestory.core.progress import Silent\n"
            "from ninestory.training.nf4_checkpoint import convert_to_nf4\n"
            "convert_to_nf4(Path(sys.argv[1]), Path(sys.argv[2]), Silent())"
        )
        subprocess.run([sys.executable, "-c", make, str(path), str(folder / "nf4")], check=True, capture_output=True)
        path = folder / "nf4"
    resolved = ResolvedModel(
        reference="m", path=path, format="safetensors", architecture="llama", task="chat", context=1024
    )
    return load_model(resolved)[0]


def ours(configuration: Configuration, rows: list[Any], folder: Path) -> tuple[list[float], float]:
    from ninestory.core.progress import Silent
    from ninestory.training.allocator import fix_malloc_thresholds
    from ninestory.training.loop import Training
    from ninestory.training.methods import prepare
    from ninestory.training.run_folder import RunFolder
    from ninestory.training.settings import Method, TrainSettings

    fix_malloc_thresholds()
    settings = TrainSettings(
        max_steps=STEPS, batch=configuration.rows, micro_batch_tokens=1 << 20, save_every=0, warmup=0, seed=0,
        schedule="constant", gradient_checkpointing=configuration.checkpointing, max_gradient_norm=1.0,
    )  # fmt: skip
    tuned = prepare(model(configuration, folder), Method(name=configuration.method), seed=0, total_steps=STEPS)
    training = Training(tuned, rows, settings, RunFolder(folder), Silent())
    training.tuned.module.train()
    started, tokens = 0.0, 0
    for step in range(STEPS):
        if step == 1:
            started, tokens = time.process_time(), training.seen_tokens
        training._train_step()
    speed = (training.seen_tokens - tokens) / (time.process_time() - started)
    return [line["loss"] for line in training.folder.lines("step")], speed


def trainer(configuration: Configuration, rows: list[Any], folder: Path) -> tuple[list[float], float]:
    """peft + transformers' Trainer: padded to the longest of the batch, the order of rows as ours."""
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from ninestory.training.batches import epoch_order
    from ninestory.training.methods import prepare
    from ninestory.training.settings import Method

    tuned = prepare(model(configuration, folder), Method(name=configuration.method), seed=0, total_steps=STEPS)
    ordered = [rows[i] for i in epoch_order(len(rows), 0, 0)]

    def collate(batch: list[Any]) -> dict[str, Any]:
        longest = max(len(row["ids"]) for row in batch)

        def padded(name: str, fill: int) -> Any:
            return torch.tensor([row[name] + [fill] * (longest - len(row[name])) for row in batch])

        mask = torch.tensor([[1] * len(row["ids"]) + [0] * (longest - len(row["ids"])) for row in batch])
        return {"input_ids": padded("ids", 0), "labels": padded("labels", -100), "attention_mask": mask}

    class Clock(TrainerCallback):
        marks: list[float] = []

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.marks.append(time.process_time())

    class InOrder(Trainer):
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(ordered)

    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=STEPS, per_device_train_batch_size=configuration.rows, learning_rate=2e-4,
        lr_scheduler_type="constant", logging_steps=1, report_to=[], save_strategy="no", use_cpu=True,
        remove_unused_columns=False, disable_tqdm=True, weight_decay=0.0,
    )  # fmt: skip
    data = [{"ids": row.ids, "labels": row.labels} for row in ordered]
    made = InOrder(model=tuned.module, args=arguments, train_dataset=data, data_collator=collate, callbacks=[Clock()])
    made.train()
    tokens = sum(len(row.ids) for row in ordered[configuration.rows :])
    losses = [entry["loss"] for entry in made.state.log_history if "loss" in entry]
    return losses, tokens / (Clock.marks[-1] - Clock.marks[0])


def planned(configuration: Configuration, rows: list[Any]) -> int:
    """The plan of the largest step, as `floors/finetuning/preparation.py` asks for it."""
    from ninestory.models.plan import ModelShape
    from ninestory.models.plan_tuning import TunedShape, TuningJob, plan_tuning
    from ninestory.training.batches import rows_of_step

    shape = ModelShape(
        configuration.layers, configuration.hidden, 2, 64, configuration.ffn, configuration.vocabulary,
        configuration.hidden // 64,
    )  # fmt: skip
    padded = configuration.method in ("prompt", "prefix")
    steps = [[rows[i] for i in rows_of_step(s, len(rows), configuration.rows, 0)] for s in range(STEPS)]
    sizes = [
        (
            max(len(r.ids) for r in step) * len(step) if padded else sum(len(r.ids) for r in step),
            sum(r.learned for r in step),
        )
        for step in steps
    ]
    tokens, labels = max(sizes)
    job = TuningJob(configuration.method, tokens, labels, checkpointing=configuration.checkpointing)
    return plan_tuning("m", TunedShape(shape, tied=True), job, free=0).total_bytes


if __name__ == "__main__":
    main()
