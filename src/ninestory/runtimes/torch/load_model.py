"""A checkpoint's files → an nn.Module, with an account of every tensor. No remote code, no unpickling.

The module is built without memory, then each stored tensor is copied to its place. Whatever is missing, left over or
of another shape is an error, unless the family's data (families.py) says why it is expected: nothing is ever newly
initialised in silence.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ninestory.core.errors import Damaged, InvalidRequest, Unsupported
from ninestory.core.extras import require
from ninestory.models.convert.checkpoint import Checkpoint, Tensor, open_checkpoint
from ninestory.models.resolved import ResolvedModel
from ninestory.runtimes.torch.families import Family, find_family
from ninestory.runtimes.torch.plan import Placement
from ninestory.tokenizers.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class LoadReport:
    """Where every tensor went.

    Attributes:
        loaded: stored name → the model's name, where its values stand now.
        unused: stored name → why it is not needed.
        shared: the model's name → the other of its names whose memory it shares.
        computed: the model's name → why no file holds it.
        packed: linears that keep their quantised weights.
        stored: the type of most of the stored tensors (F32, F16, BF16); empty for an RWKV.
    """

    loaded: dict[str, str] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)
    shared: dict[str, str] = field(default_factory=dict)
    computed: dict[str, str] = field(default_factory=dict)
    packed: list[str] = field(default_factory=list)
    stored: str = ""

    def summary(self) -> str:
        """One line for the log and `show`."""
        parts = [f"{len(self.loaded)} tensors loaded"]
        counts = {"shared": self.shared, "unused": self.unused, "computed": self.computed, "packed": self.packed}
        parts += [f"{len(names)} {what}" for what, names in counts.items() if names]
        return ", ".join(parts)


def load_model(
    resolved: ResolvedModel,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    *,
    placement: Placement | None = None,
    rwkv_strategy: str = "",
) -> tuple[nn.Module, LoadReport]:
    """Build and fill the model of a checkpoint directory, in evaluation mode.

    Args:
        dtype: of the weights; None is float32 on a processor and the stored one elsewhere. Packed weights (int4, int8,
            GPTQ) keep their own types.
        placement: of the blocks on cards, in place of `device`; not of an RWKV.
        rwkv_strategy: of an RWKV, in place of `dtype` and `device`.

    Raises:
        Unsupported: a family or a way of packing that is not built in, by name.
        Damaged: a tensor is missing, left over, of another shape, or a file is not sound.
        MissingExtra: torch is not installed.
    """
    require("torch", "torch", "Running checkpoints in their original layout")
    assert resolved.path is not None
    if resolved.architecture == "rwkv":
        return _load_rwkv(resolved.path, dtype, device, rwkv_strategy)
    return load_model_folder(resolved.path, resolved.reference, dtype, device, placement=placement)


def load_model_folder(
    path: Path,
    reference: str = "",
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    *,
    placement: Placement | None = None,
) -> tuple[nn.Module, LoadReport]:
    """As `load_model`, of a checkpoint folder that has a config.json; errors call it `reference`, or by its name."""
    reference = reference or path.name
    require("torch", "torch", "Running checkpoints in their original layout")
    checkpoint = open_checkpoint(path)
    family = find_family(checkpoint.config, reference)
    model = _build(family, checkpoint, reference)
    kinds = [tensor.dtype for tensor in checkpoint.tensors.values()]
    report = LoadReport(stored=max(set(kinds), key=kinds.count) if kinds else "")
    _put_packed_linears(model, checkpoint, report)
    device = placement.embedding if placement else device
    _fill(model, family, checkpoint, report, _chosen_dtype(checkpoint, dtype, device), device, placement)
    return model.eval(), report


def _load_rwkv(
    path: Path, dtype: torch.dtype | None, device: torch.device | str, strategy: str
) -> tuple[nn.Module, LoadReport]:
    """RWKV's releases have no config: the keys say it all, and their reader accounts for every one."""
    import torch

    from ninestory.architectures.rwkv_checkpoint import RwkvCheckpoint, load_rwkv

    model = load_rwkv(path, dtype=dtype or torch.float32, device=str(device), strategy=strategy)
    stored = RwkvCheckpoint(path)
    used = set(stored.names())
    unused = dict.fromkeys((n for n in stored.shapes if n not in used), "has no use in this version of RWKV")
    return model.eval(), LoadReport(loaded={name: name for name in used}, unused=unused)


def check_vocabulary(tokenizer: Tokenizer, rows: int, reference: str) -> None:
    """A tokenizer with more ids than the embedding has rows would read beyond it.

    Raises:
        Damaged: with both numbers.
    """
    if tokenizer.vocab_size > rows:
        raise Damaged(
            f"The tokenizer of {reference} has {tokenizer.vocab_size} ids, its embedding {rows} rows.",
            hint="The tokenizer is of another release: take the one published with these weights.",
            hint_zh="分词器来自其他版本：请使用与权重一同发布的分词器。",
            param="model",
            code="vocabulary_mismatch",
        )


def linear_names(checkpoint: Checkpoint) -> frozenset[str]:
    """Stored names of the weights of every linear but the output head: those that are packed in 4 bits.

    Raises:
        Unsupported: a family that is not built in. InvalidRequest: config.json makes no model.
    """
    from torch import nn

    model = _build(find_family(checkpoint.config, checkpoint.path.name), checkpoint, checkpoint.path.name)
    head = model.get_output_embeddings()
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head]
    prefix = f"{model.base_model_prefix}."
    stored = {f"{name}.weight" for name in names}
    return frozenset(n for n in checkpoint.tensors if n in stored or f"{prefix}{n}" in stored)


# --- the empty model --------------------------------------------------------------------------------------------


def _build(family: Family, checkpoint: Checkpoint, reference: str) -> Any:
    """The family's module with parameters that take no memory, and buffers that are computed."""
    from accelerate import init_empty_weights
    from huggingface_hub.errors import StrictDataclassError

    refused = (ValueError, TypeError, KeyError, AttributeError, ZeroDivisionError, RuntimeError, StrictDataclassError)
    stated = {k: v for k, v in checkpoint.config.items() if k not in ("auto_map", "model_type", "quantization_config")}
    stated = {family.renamed.get(key, key): value for key, value in stated.items()}
    try:
        config = _class(family.config).from_dict({**family.defaults, **stated})
        with init_empty_weights(include_buffers=False):
            return _class(family.model)(config)
    except refused as error:
        reason = str(error.__cause__ or error).rstrip(".")
        raise InvalidRequest(
            f"config.json of {reference} makes no model: {reason}.",
            hint="Compare it with the publisher's config.json.",
            hint_zh="请与发布者的 config.json 比对。",
            param="model",
        ) from error


def _class(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def _chosen_dtype(checkpoint: Checkpoint, dtype: torch.dtype | None, device: torch.device | str) -> torch.dtype:
    import torch

    if dtype is not None:
        return dtype
    if torch.device(device).type == "cpu":
        return torch.float32
    stored = {"F16": torch.float16, "BF16": torch.bfloat16}
    kinds = [stored.get(t.dtype, torch.float32) for t in checkpoint.tensors.values() if t.dtype.startswith(("F", "B"))]
    return max(set(kinds), key=kinds.count) if kinds else torch.float32


def _put_packed_linears(model: Any, checkpoint: Checkpoint, report: LoadReport) -> None:
    """Put GPTQ's linears where the checkpoint holds packed weights; bits and groups follow from the shapes."""
    _refuse_other_packing(checkpoint)
    modules = {name for name, _ in model.named_modules()}
    for name in [n for n in checkpoint.tensors if ".weight.quant_state.bitsandbytes__" in n]:
        _put_nf4_linear(model, name.partition(".weight.")[0], modules, checkpoint, report)
    for name in [n for n in checkpoint.tensors if n.endswith(".qweight")]:
        stored = name.removesuffix(".qweight")
        place = stored if stored in modules else f"{model.base_model_prefix}.{stored}"
        if place not in modules:
            raise _misfit([name], "is packed, and the model has no linear of that name")
        linear = model.get_submodule(place)
        if not hasattr(linear, "qweight"):  # MOSS's own class has put them already
            parent, _, leaf = place.rpartition(".")
            setattr(model.get_submodule(parent), leaf, _packed_linear(linear, stored, checkpoint))
    report.packed.extend(n for n, m in model.named_modules() if hasattr(m, "qweight") or hasattr(m, "weight_scale"))


def _refuse_other_packing(checkpoint: Checkpoint) -> None:
    described = checkpoint.config.get("quantization_config") or {}
    method = described.get("quant_method", "gptq") if isinstance(described, dict) else str(described)
    version = described.get("checkpoint_format", "gptq") if isinstance(described, dict) else ""
    if method == "bitsandbytes" and described.get("load_in_4bit"):
        return
    if method != "gptq" or version not in ("", "gptq"):
        raise Unsupported(
            f"The weights are packed by {method} ({version or 'no version'}); built in are GPTQ's first layout and "
            "bitsandbytes' 4 bits.",
            hint="Take the release in half precision, or a GGUF of it.",
            hint_zh="请使用半精度版本或其 GGUF 文件。",
            param="model",
        )


def _put_nf4_linear(model: Any, stored: str, modules: set[str], checkpoint: Checkpoint, report: LoadReport) -> None:
    """bitsandbytes' 4-bit linear: its scales are read here, its packed weight comes with the other tensors."""
    import torch

    from ninestory.architectures.nf4_linear import NF4Linear, read_state

    place = stored if stored in modules else f"{model.base_model_prefix}.{stored}"
    if place not in modules:
        raise _misfit([stored], "is packed, and the model has no linear of that name")
    start = f"{stored}.weight."
    names = [name for name in checkpoint.tensors if name.startswith(start)]
    linear = model.get_submodule(place)
    try:
        parts = {n.removeprefix(start): torch.from_numpy(_writable(checkpoint.tensor(n))) for n in names}
        packed = NF4Linear.empty(read_state(parts), bias=linear.bias is not None)
    except (KeyError, ValueError) as error:
        raise _misfit([stored], f"has a 4-bit state that does not hold together ({error})") from error
    if (packed.in_features, packed.out_features) != (linear.in_features, linear.out_features):
        raise _misfit([stored], f"was packed from a {packed.out_features} × {packed.in_features} weight")
    parent, _, leaf = place.rpartition(".")
    setattr(model.get_submodule(parent), leaf, packed)
    report.loaded.update({name: f"{place}.weight.{name.removeprefix(start)}" for name in names})
    report.packed.append(place)


def _packed_linear(linear: Any, stored: str, checkpoint: Checkpoint) -> nn.Module:
    from ninestory.architectures.gptq_linear import GPTQLinear, LLMTuneLinear

    inputs, outputs = linear.in_features, linear.out_features
    words = checkpoint.tensor(f"{stored}.qweight").shape[0]
    bits, rest = divmod(words * 32, inputs)
    if rest or bits not in (4, 8):
        raise Unsupported(
            f"{stored} is packed in {words * 32 / inputs:g} bits; 4 and 8 are built in.",
            hint="Take the release in 4 or 8 bits, or a GGUF of it.",
            hint_zh="请使用 4 位或 8 位版本，或其 GGUF 文件。",
            param="model",
        )
    if f"{stored}.zeros" in checkpoint.tensors:  # LLMTune's older layout: one pair a row
        return LLMTuneLinear(inputs, outputs)
    groups = checkpoint.tensor(f"{stored}.scales").shape[0]
    return GPTQLinear(inputs, outputs, bits, -(-inputs // groups), f"{stored}.bias" in checkpoint.tensors)


# --- filling it -------------------------------------------------------------------------------------------------


def _fill(
    model: Any,
    family: Family,
    checkpoint: Checkpoint,
    report: LoadReport,
    dtype: torch.dtype,
    device: torch.device | str,
    placement: Placement | None = None,
) -> None:
    """Copy every stored tensor to its place, then account for what no file holds."""
    from ninestory.runtimes.torch.device_map import DeviceMap

    expected = {name: tensor for name, tensor in model.state_dict().items()}
    device_map = DeviceMap(model, placement) if placement else None
    head, embedding = _tied_names(model)
    surplus = []
    for name, tensor in checkpoint.tensors.items():
        if name in report.loaded:  # scales of 4-bit linears
            continue
        target = name if name in expected else f"{model.base_model_prefix}.{name}"
        if target == head and embedding:
            _check_tied(checkpoint, name, embedding, model.base_model_prefix)
            report.unused[name] = f"equal to {embedding}, whose memory the head shares"
        elif target in expected:
            _check_shape(target, tensor, tuple(expected[target].shape), checkpoint)
            _put(model, target, tensor, dtype, device_map.device(target) if device_map else device)
            report.loaded[name] = target
        elif reason := next((why for pattern, why in family.surplus.items() if re.search(pattern, name)), ""):
            report.unused[name] = reason
        else:
            surplus.append(name)
    if surplus:
        raise _misfit(surplus, "has no place in the model that config.json describes")
    if head and embedding:
        report.shared[head] = embedding
        model.tie_weights()
    placed = {*report.loaded.values(), *report.shared}
    if missing := [name for name in expected if name not in placed]:
        raise _misfit(missing, "is in no file of the checkpoint")
    report.computed.update({name: "computed from the config" for name, _ in model.named_buffers()})
    if device_map:
        device_map.install(model)
    else:
        model.to(device)


def _tied_names(model: Any) -> tuple[str, str]:
    """(head, embedding) of a model whose head shares the embedding's memory, else empty."""
    if not model.config.tie_word_embeddings:
        return "", ""
    names = {id(module): name for name, module in model.named_modules()}
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    return f"{names[id(head)]}.weight", f"{names[id(embedding)]}.weight"


def _check_tied(checkpoint: Checkpoint, name: str, embedding: str, prefix: str) -> None:
    """A stored head that should share the embedding's memory must be equal to it."""
    import numpy as np

    stored = embedding if embedding in checkpoint.tensors else embedding.removeprefix(f"{prefix}.")
    head, table = checkpoint.tensor(name), checkpoint.tensor(stored)
    same = head.shape == table.shape and head.dtype == table.dtype
    blocks = range(0, head.shape[0], 4096)
    if not same or not all(np.array_equal(head.view()[i : i + 4096], table.view()[i : i + 4096]) for i in blocks):
        raise Damaged(
            f"{name} differs from {stored}, and config.json says that the two are one (tie_word_embeddings).",
            hint="Take config and weights of one release.",
            hint_zh="请使用同一版本的配置与权重。",
            param="model",
        )


def _check_shape(target: str, tensor: Tensor, due: tuple[int, ...], checkpoint: Checkpoint) -> None:
    if tensor.shape == due:
        return
    rows = checkpoint.config.get("vocab_size")
    if len(due) == 2 and due[0] == rows and tensor.shape[1:] == due[1:]:
        raise Damaged(
            f"{target} has {tensor.shape[0]} rows, and config.json says vocab_size {rows}.",
            hint="Take config and weights of one release; an extended vocabulary needs the merged weights.",
            hint_zh="请使用同一版本的配置与权重；扩充过词表的模型需要合并后的权重。",
            param="model",
            code="vocabulary_mismatch",
        )
    raise Damaged(
        f"{target} has the shape {tensor.shape}, and config.json asks for {due}.",
        hint="Take config and weights of one release.",
        hint_zh="请使用同一版本的配置与权重。",
        param="model",
    )


def _put(model: Any, target: str, tensor: Tensor, dtype: torch.dtype, device: torch.device | str) -> None:
    """Copy one tensor into its module; packed modules keep the stored types."""
    import torch
    from torch import nn

    parent, _, leaf = target.rpartition(".")
    module = model.get_submodule(parent)
    values = torch.from_numpy(_writable(tensor))
    if tensor.dtype == "BF16":
        values = values.view(torch.int16).view(torch.bfloat16)
    is_packed = hasattr(module, "qweight") or hasattr(module, "weight_scale")
    if values.is_floating_point() and not is_packed:
        values = values.to(dtype)
    values = values.to(device)
    if leaf in module._parameters:
        wanted = module._parameters[leaf].requires_grad and values.is_floating_point()
        setattr(module, leaf, nn.Parameter(values, requires_grad=wanted))
    else:
        module.register_buffer(leaf, values)


def _writable(tensor: Tensor) -> Any:
    """A copy: a mapped file that is changed or cut off would end the process."""
    import numpy as np

    return np.array(tensor.view(), order="C")


def _misfit(names: Iterable[str], why: str) -> Damaged:
    listed = list(names)
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return Damaged(
        f"{', '.join(listed[:3])}{more} {why}.",
        hint="Complete the download, and take config and weights of one release; 'ninestory verify' lists the tensors.",
        hint_zh="请补全下载，并使用同一版本的配置与权重；ninestory verify 会列出全部张量。",
        param="model",
        code="tensors_do_not_fit",
    )
