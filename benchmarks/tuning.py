"""Our step against peft + transformers' Trainer and TRL's SFTTrainer with packing: speed, peak memory, losses.

    python benchmarks/tuning.py [PYTHON OF A VENV WITH TRL]

Each row is a process of its own on a random LLaMA; tokens are counted per CPU-second, so that other work on the machine
weighs little. All take the same rows in the same order, LoRA r = 8 on all linears, float32, AdamW. TRL packs the rows
of a step into one line of just their length, so that its steps hold the same rows and its losses can be compared.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
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
    uniform: bool = False  # rows of nearly one length


STEPS = 3  # the first is not timed


def main() -> None:
    if sys.argv[1:] and sys.argv[1].startswith("{"):
        print(json.dumps(measure(Configuration(**json.loads(sys.argv[1])))))
        return
    loops = {"ours": sys.executable, "trainer": sys.executable} | ({"trl": sys.argv[1]} if sys.argv[1:] else {})
    print(f"{platform.processor() or platform.machine()}, {processor()}, one thread.\n")
    print("| rows | vocabulary | loop | real tokens per CPU-second | peak MB | losses |\n|---|---:|---|---:|---:|---|")
    for uniform, vocabulary in ((False, 32768), (True, 32768), (False, 49152)):
        for loop, python in loops.items():
            found = in_a_process(Configuration("lora", loop=loop, uniform=uniform, vocabulary=vocabulary), python)
            losses = ", ".join(f"{loss:.4f}" for loss in found["losses"])
            rows = "nearly uniform" if uniform else "mixed"
            figures = f"{found['speed']:.0f} | {found['peak'] / 1e6:.0f} | {losses}"
            print(f"| {rows} | {vocabulary} | {loop} | {figures} |", flush=True)


def in_a_process(configuration: Configuration, python: str) -> dict[str, Any]:
    command = [python, __file__, json.dumps(vars(configuration))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")


def measure(configuration: Configuration) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    rows = texts(configuration)
    with tempfile.TemporaryDirectory() as folder:
        run = {"ours": ours, "trainer": trainer, "trl": trl}[configuration.loop]
        losses, speed = run(configuration, rows, Path(folder))
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    return {"peak": peak, "losses": losses, "speed": speed}


def texts(configuration: Configuration) -> list[Any]:
    """Log-normal lengths (median 100), the second half learned: a mixed instruction set."""
    import torch

    from ninestory.training.batches import TokenRow

    generator = torch.Generator().manual_seed(ROWS_SEED)
    made = []
    for _ in range(configuration.rows * STEPS):
        spread = 0.05 if configuration.uniform else 0.8
        length = int((torch.randn(1, generator=generator) * spread + 4.6).exp().clamp(8, LONGEST))
        ids = torch.randint(1, configuration.vocabulary, (length,), generator=generator).tolist()
        made.append(TokenRow(ids, [-100] * (length // 2) + ids[length // 2 :]))
    return made


def model(configuration: Configuration, folder: Path) -> Any:
    """Written by another process and read, as a run reads its base."""
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
    resolved = ResolvedModel(
        reference="m", path=path, format="safetensors", architecture="llama", tasks=("chat",), context=1024
    )
    return load_model(resolved)[0]


def ours(configuration: Configuration, rows: list[Any], folder: Path) -> tuple[list[float], float]:
    from ninestory.core.memory import fix_malloc_thresholds
    from ninestory.core.progress import Silent
    from ninestory.training.methods import adapt_model
    from ninestory.training.objectives.causal import causal_objective
    from ninestory.training.optimizers import make_optimizer
    from ninestory.training.run_folder import RunFolder
    from ninestory.training.settings import Method, TrainSettings
    from ninestory.training.trainer import Trainer

    fix_malloc_thresholds()
    settings = TrainSettings(
        max_steps=STEPS, batch_size=configuration.rows, micro_batch_tokens=1 << 20, save_every=0, warmup_ratio=0, seed=0,
        lr_scheduler="constant", gradient_checkpointing=configuration.checkpointing, max_gradient_norm=1.0,
    )  # fmt: skip
    adapted = adapt_model(model(configuration, folder), Method(name=configuration.method), seed=0, total_steps=STEPS)
    training = Trainer(
        adapted, causal_objective, partial(make_optimizer, settings), rows, [], settings, RunFolder(folder), Silent()
    )
    adapted.module.train()
    started, tokens = 0.0, 0
    for step in range(STEPS):
        if step == 1:
            started, tokens = time.process_time(), training.state.seen
        training._train_step()
    speed = (training.state.seen - tokens) / (time.process_time() - started)
    return [line["loss"] for line in training.folder.lines("step")], speed


def trainer(configuration: Configuration, rows: list[Any], folder: Path) -> tuple[list[float], float]:
    """peft + transformers' Trainer: padded to the longest of the batch, the order of rows as ours."""
    import torch
    from transformers import Trainer, TrainingArguments

    from ninestory.training.batches import epoch_order
    from ninestory.training.methods import adapt_model
    from ninestory.training.settings import Method

    adapted = adapt_model(model(configuration, folder), Method(name=configuration.method), seed=0, total_steps=STEPS)
    ordered = [rows[i] for i in epoch_order(len(rows), 0, 0)]

    def collate(batch: list[Any]) -> dict[str, Any]:
        longest = max(len(row["ids"]) for row in batch)

        def padded(name: str, fill: int) -> Any:
            return torch.tensor([row[name] + [fill] * (longest - len(row[name])) for row in batch])

        mask = torch.tensor([[1] * len(row["ids"]) + [0] * (longest - len(row["ids"])) for row in batch])
        return {"input_ids": padded("ids", 0), "labels": padded("labels", -100), "attention_mask": mask}

    class InOrder(Trainer):
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(ordered)

    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=STEPS, per_device_train_batch_size=configuration.rows, learning_rate=2e-4,
        lr_scheduler_type="constant", logging_steps=1, report_to=[], save_strategy="no", use_cpu=True,
        remove_unused_columns=False, disable_tqdm=True, weight_decay=0.0,
    )  # fmt: skip
    data = [{"ids": row.ids, "labels": row.labels} for row in ordered]
    clock = _clock()
    made = InOrder(model=adapted.module, args=arguments, train_dataset=data, data_collator=collate, callbacks=[clock])
    made.train()
    tokens = sum(len(row.ids) for row in ordered[configuration.rows :])
    losses = [entry["loss"] for entry in made.state.log_history if "loss" in entry]
    return losses, tokens / (clock.marks[-1] - clock.marks[0])


def trl(configuration: Configuration, rows: list[Any], folder: Path) -> tuple[list[float], float]:
    """TRL's SFTTrainer with packing; a line holds exactly the rows of a step."""
    from datasets import Dataset
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    from ninestory.training.batches import epoch_order
    from ninestory.training.methods import adapt_model
    from ninestory.training.settings import Method

    adapted = adapt_model(model(configuration, folder), Method(name=configuration.method), seed=0, total_steps=STEPS)
    ordered = [rows[i] for i in epoch_order(len(rows), 0, 0)]
    steps = [ordered[i : i + configuration.rows] for i in range(0, len(ordered), configuration.rows)]
    packed = {
        "input_ids": [[token for row in step for token in row.ids] for step in steps],
        "labels": [[label for row in step for label in (-100, *row.labels[1:])] for step in steps],
        "seq_lengths": [[len(row.ids) for row in step] for step in steps],
    }
    words = WordLevel({"<eos>": 0, **{str(i): i for i in range(1, configuration.vocabulary)}}, unk_token="<eos>")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), eos_token="<eos>", pad_token="<eos>")
    arguments = SFTConfig(
        output_dir=str(folder), max_steps=STEPS, per_device_train_batch_size=1, learning_rate=2e-4, padding_free=True,
        lr_scheduler_type="constant", logging_steps=1, report_to=[], save_strategy="no", use_cpu=True, bf16=False,
        gradient_checkpointing=False, disable_tqdm=True, weight_decay=0.0, max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )  # fmt: skip

    class InOrder(SFTTrainer):
        def _get_train_sampler(self, *_: Any) -> Any:
            import torch

            return torch.utils.data.SequentialSampler(steps)

    clock = _clock()
    made = InOrder(model=adapted.module, args=arguments, train_dataset=Dataset.from_dict(packed),
                   processing_class=tokenizer, callbacks=[clock])  # fmt: skip
    made.train()
    tokens = sum(len(row.ids) for row in ordered[configuration.rows :])
    losses = [entry["loss"] for entry in made.state.log_history if "loss" in entry]
    return losses, tokens / (clock.marks[-1] - clock.marks[0])


def _clock() -> Any:
    """CPU seconds at the end of each step."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.marks: list[float] = []

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.marks.append(time.process_time())

    return Clock()


if __name__ == "__main__":
    main()
