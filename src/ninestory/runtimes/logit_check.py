"""Does a converted GGUF file think what its checkpoint thinks? Both are asked for their logits on the same tokens.

It runs in a process of its own (`python -m ninestory.runtimes.logit_check SOURCE FILE`): the whole model in float32
would otherwise count as the converter's memory, and an abort in native code would take the converter with it.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

from ninestory.core.errors import NinestoryError, from_dict
from ninestory.core.extras import require
from ninestory.core.machine import available_bytes
from ninestory.core.paths import Home
from ninestory.models.convert.checkpoint import open_checkpoint
from ninestory.models.convert.to_gguf import LogitCheck

_LENGTHS = (1, 6, 24)  # tokens of the prompts compared
_PROCESS_BYTES = 500_000_000  # an interpreter with torch and llama.cpp
_SECONDS = 3600


def bytes_needed(source: Path) -> int:
    """Memory of a check, roughly: every value as float32, once for each of the two at the worst."""
    values = sum(prod(tensor.shape) for tensor in open_checkpoint(source).tensors.values())
    return 2 * 4 * values + _PROCESS_BYTES


def checker_for(source: Path, wanted: bool | None, home: Home) -> tuple[Callable[[Path], LogitCheck] | None, str]:
    """What compares the logits, or None; and why not.

    Args:
        home: in whose cache what is derived from the checkpoint is kept.
        wanted: None compares where torch is installed and the memory suffices.

    Raises:
        MissingExtra: it is wanted, and torch is not installed.
    """
    if wanted is False:
        return None, "no check was asked for"
    if wanted:
        require("torch", "torch", "Comparing logits")
    elif importlib.util.find_spec("torch") is None:
        return None, "torch is not installed"
    elif (needed := bytes_needed(source)) > available_bytes():
        return None, f"the check needs about {needed / 1e9:.1f} GB of memory"
    return checker(source, home), ""


def checker(source: Path, home: Home) -> Callable[[Path], LogitCheck]:
    """The callable that `convert_to_gguf` takes.

    Raises (when called):
        NinestoryError: what kept the checkpoint or the file from being run.
    """

    def check(file: Path) -> LogitCheck:
        command = [sys.executable, "-m", "ninestory.runtimes.logit_check", str(source), str(file), str(home.root)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        try:
            answer = json.loads(done.stdout.splitlines()[-1])
        except (ValueError, IndexError) as error:
            last = done.stderr.strip().splitlines()[-1:] or ["no message"]
            raise NinestoryError(
                f"The check ended with code {done.returncode}: {last[0][:300]}.",
                hint="--no-check writes the file unchecked.",
                hint_zh="--no-check 可写出未经检查的文件。",
                code="check_failed",
            ) from error
        if "error" in answer:
            raise from_dict(answer["error"])
        return LogitCheck(**answer)

    return check


def compare(source: Path, file: Path, home: Home) -> LogitCheck:
    """The logits behind prompts of a few random tokens, in this process."""
    import numpy as np

    from ninestory.runtimes.llamacpp.logits import next_token_logprobs

    expected, prompts = _checkpoint_logprobs(source, home)
    actual = next_token_logprobs(file, prompts, expected.shape[1])
    difference = actual - expected
    return LogitCheck(
        tokens=len(prompts),
        largest=float(np.abs(difference).max()),
        relative=float(np.sqrt(np.mean(difference**2)) / expected.std()),
        agreement=float(np.mean(actual.argmax(1) == expected.argmax(1))),
    )


def _checkpoint_logprobs(source: Path, home: Home) -> tuple[Any, list[list[int]]]:
    """log softmax of the checkpoint's logits in float32 [prompts, vocabulary], and the prompts."""
    import numpy as np
    import torch

    from ninestory.models.resolve import resolve
    from ninestory.runtimes.torch.load_model import load_model

    model, _ = load_model(resolve(str(source.resolve()), home), dtype=torch.float32)
    rows = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    ids = np.random.default_rng(0).integers(0, rows, max(_LENGTHS)).tolist()
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0, [length - 1 for length in _LENGTHS]]  # [prompts, vocabulary]
    return torch.log_softmax(logits.float(), -1).numpy(), [ids[:length] for length in _LENGTHS]


def main() -> None:
    try:
        answer = dataclasses.asdict(compare(Path(sys.argv[1]), Path(sys.argv[2]), Home(Path(sys.argv[3]))))
    except NinestoryError as error:
        answer = {"error": error.as_dict()}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
