"""The model that is tuned: its float weights, its tokenizer and the prompt format it is asked in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ninestory.core.errors import InvalidRequest, Unsupported
from ninestory.core.paths import Home
from ninestory.core.progress import Progress
from ninestory.models.adapter_base import fingerprint
from ninestory.models.convert.checkpoint import open_checkpoint
from ninestory.models.convert.gguf_safetensors import float_checkpoint
from ninestory.models.prompt_format import PromptFormat, choose_format, own_template
from ninestory.models.resolve import resolve
from ninestory.models.resolved import ResolvedModel
from ninestory.tokenizers.load import load_tokenizer
from ninestory.tokenizers.tokenizer import Tokenizer
from ninestory.training.plan import TunedShape, tuned_shape


@dataclass(frozen=True)
class Base:
    """A base model without its weights.

    Attributes:
        reference: as the user wrote it.
        folder: the checkpoint with float weights.
        fingerprint: identifies the files behind the reference.
    """

    reference: str
    resolved: ResolvedModel
    folder: Path
    tokenizer: Tokenizer
    prompts: PromptFormat | None
    fingerprint: str

    @property
    def shape(self) -> TunedShape | None:
        return tuned_shape(self.resolved)


def open_base(reference: str, template: str, home: Home, progress: Progress) -> Base:
    """Resolve a base; a GGUF of LLaMA's shape is converted to float32 once and kept in the home's cache.

    Raises:
        NotFound: it is not on this machine. Unsupported: it cannot be tuned (a remote model, an embedding model, an
            RWKV, a model with an adapter).
    """
    found = resolve(reference, home)
    weights = found.format in ("gguf", "safetensors", "pickle") and found.task == "chat"
    if not weights or found.adapters or found.architecture == "rwkv":
        what = f"{found.format} files for {found.task}"
        if weights:
            what = "a model with an adapter" if found.adapters else "an RWKV, which is run here and not trained"
        raise Unsupported(
            f"{reference} is {what}; a base language model with its weights is tuned.",
            hint="Name a checkpoint folder, hf:ORG/NAME or starter:smollm2-135m-instruct; merge an adapter first.",
            hint_zh="请指定检查点目录、hf:组织/名称 或 starter:smollm2-135m-instruct；带适配器的模型请先合并。",
            param="model.name",
        )
    assert found.path is not None
    if found.format == "gguf":
        folder = float_checkpoint(found.path, found.sha256 or _sum(found.path), home, progress)
    else:
        folder = found.path if found.path.is_dir() else found.path.parent
    resolved = replace(found, path=folder, format="safetensors") if found.format == "gguf" else found
    prompts = choose_format(found, template, own_template(folder))
    return Base(reference, resolved, folder, load_tokenizer(folder), prompts, fingerprint(found.path))


def load_weights(base: Base, home: Home, progress: Progress, *, packed: bool = False) -> Any:
    """The module on this process's device, in float32 on a processor; `packed`: its linears in NF4 with double quantisation (QLoRA).

    Packed weights come from a 4-bit copy that is made once and kept in the home's cache: quantising in memory would
    take more than a whole run does. A base that is packed on disk (`ninestory convert nf4`) is used as it is.
    """
    from ninestory.runtimes.torch.load_model import check_vocabulary, load_model
    from ninestory.training.processes import own_device

    resolved = base.resolved
    if packed and not open_checkpoint(base.folder).config.get("quantization_config"):
        from ninestory.training.nf4_checkpoint import convert_to_nf4

        folder = home.cache / "nf4" / base.fingerprint
        resolved = replace(resolved, path=folder if folder.is_dir() else convert_to_nf4(base.folder, folder, progress))
    model, _ = load_model(resolved, device=own_device())
    check_vocabulary(base.tokenizer, model.get_input_embeddings().weight.shape[0], base.reference)  # type: ignore[operator]
    return model


def original_weights(base: Base) -> Callable[[str], Any]:
    """Return a reader of a linear's float weight [out, in] by its path, as it was before packing.

    Raises:
        InvalidRequest: the base is packed on disk, so the float weights are lost.
    """
    import torch

    from ninestory.models.convert.checkpoint import widen

    stored = open_checkpoint(base.folder)
    if stored.config.get("quantization_config"):
        raise InvalidRequest(
            f"{base.reference} is already packed; LoftQ expects a base with float weights.",
            hint="Name the base with its float weights, or set method.init to default.",
            hint_zh="请使用带浮点权重的基座，或将 method.init 设为 default。",
            param="method.init",
        )

    def weight(path: str) -> torch.Tensor:
        name = f"{path}.weight"
        if name not in stored.tensors:  # some families store their names without the model's prefix
            name = name.partition(".")[2]
        tensor = stored.tensors[name]
        return torch.from_numpy(widen(tensor.view(), tensor.dtype, tensor.name))

    return weight


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
