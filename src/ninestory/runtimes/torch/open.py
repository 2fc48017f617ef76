"""A checkpoint's files → a running engine: weights, tokenizer, the linears that suit this processor."""

from __future__ import annotations

from typing import Any

import torch

from ninestory.core.config import RuntimeSettings
from ninestory.core.errors import InvalidRequest, Unsupported
from ninestory.core.machine import free_memory
from ninestory.models.read_sizes import sizes_of
from ninestory.models.resolved import ResolvedModel
from ninestory.runtimes.torch.adapters import apply_adapters
from ninestory.runtimes.torch.decoder import decoder_of
from ninestory.runtimes.torch.engine import TorchEngine
from ninestory.runtimes.torch.gpu_linear import quantise_linears
from ninestory.runtimes.torch.llama import fuse_linears
from ninestory.runtimes.torch.load_model import check_vocabulary, load_model
from ninestory.runtimes.torch.packed_linear import Int8Linear, linears, replace_linears
from ninestory.runtimes.torch.plan import place
from ninestory.runtimes.torch.probe import choose_linears
from ninestory.tokenizers.load import load_tokenizer

DEFAULT_CONTEXT = 4096
_WORTH_NARROWING = 16_000_000  # weights; fewer stay in a processor's cache, and half of little time is little
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_PACKED_BITS = {"int8": 8, "int4": 4}


def open_engine(model: ResolvedModel, settings: RuntimeSettings) -> TorchEngine:
    """Load `model` and start its batch.

    Raises:
        Unsupported: a family, dtype or device that is not built in, by name.
        Damaged, InvalidRequest: files that do not fit together.
    """
    assert model.path is not None
    device = _device(settings.device)
    # Before the weights, which take long; only a lone RWKV file does not say its vocabulary before it is read.
    tokenizer = load_tokenizer(model.path) if model.path.is_dir() else None
    strategy = settings.rwkv_strategy if model.architecture == "rwkv" else ""
    bits = _packed_bits(settings.dtype, device)
    on_gpu = bits if device.type != "cpu" else 0
    sizes = sizes_of(model, settings.context, settings.slots)
    placement = place(sizes, settings, free_memory()) if device.type == "cuda" else None
    if placement:
        device = torch.device(placement.embedding)
    # What is packed for a GPU is read beside it, in the type that the packed linears compute in.
    dtype = torch.float16 if on_gpu else _dtype("float32" if bits else settings.dtype)
    loaded, report = load_model(
        model, dtype, "cpu" if on_gpu else device, placement=None if on_gpu else placement, rwkv_strategy=strategy
    )
    rows = loaded.get_input_embeddings().num_embeddings  # type: ignore[operator]
    tokenizer = tokenizer or load_tokenizer(model.path, rows)
    check_vocabulary(tokenizer, rows, model.reference)
    context = settings.context or min(model.context or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
    apply_adapters(loaded, model.adapters)
    if strategy:
        computed, note = strategy, "linears as the strategy lays them out: last bits may depend on what else runs"
    elif on_gpu:
        quantise_linears(loaded, bits, device)
        computed, note = settings.dtype, f"linears in {bits} bits by bitsandbytes, computed in float16"
    else:
        narrow = report.stored in ("F16", "BF16") and not (report.packed or model.architecture == "rwkv")
        computed, note = suit(loaded, settings.dtype, fast=settings.fast, may_narrow=narrow)
    notes = [report.summary(), note]
    if placement and len(placement.cards) > 1:
        shares = ", ".join(f"{placement.layers.count(card)} on {card}" for card in placement.cards)
        notes.append(f"layers over several cards: {shares}")
    if report.packed:
        notes.append("packed weights are widened for each product: their last bits may depend on what else runs")
    slots = max(1, settings.slots)
    return TorchEngine(
        model,
        settings,
        decoder=decoder_of(loaded, slots=slots, context=context),
        tokenizer=tokenizer,
        slots=slots,
        context=context,
        dtype=computed,
        notes=notes,
    )


def suit(model: Any, wanted: str, *, fast: bool = False, may_narrow: bool = False) -> tuple[str, str]:
    """Lay the linears out for this processor.

    Args:
        wanted: the dtype that was asked for; "" leaves it to a timing.
        fast: linears may be chosen whose rows depend on their neighbours in the last bits.
        may_narrow: bfloat16 is tried where nothing was asked for: the weights were released in 16 bits.

    Returns:
        The dtype the linears compute in, and a note for the log.
    """
    dtype = str(model.dtype).removeprefix("torch.")
    if model.config.model_type == "llama":
        fuse_linears(model)
    if wanted == "int8":
        replace_linears(model, dict.fromkeys(linears(model), Int8Linear))
        return "int8", "linears in int8; their rows do not depend on their neighbours"
    if model.device.type != "cpu" or model.dtype == torch.float16:
        return dtype, f"plain linears in {dtype}: last bits may depend on what else runs"
    large = sum(parameter.numel() for parameter in model.parameters()) >= _WORTH_NARROWING
    narrow = [torch.bfloat16] if may_narrow and large and not wanted else []
    choice = choose_linears(model, dtypes=[model.dtype, *narrow], fast=fast)
    for parameter in model.parameters():  # and no buffer: rotary frequencies stay as exact as they are
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(choice.dtype)
    replace_linears(model, choice.classes)
    return str(choice.dtype).removeprefix("torch."), choice.note


def _packed_bits(dtype: str, device: torch.device) -> int:
    """Bits of the weights when packing was asked for, else 0.

    Raises:
        Unsupported: 4 bits on a processor, where unpacking them costs more than it saves.
    """
    if dtype == "int4" and device.type == "cpu":
        raise Unsupported(
            "int4 is bitsandbytes on a GPU, and the device is the processor.",
            hint="Here take --dtype int8, or a GGUF in 4 bits: ninestory convert gguf DIR FILE --quant Q4_K.",
            hint_zh="在 CPU 上请用 --dtype int8，或转换为 4 位 GGUF：ninestory convert gguf 目录 文件 --quant Q4_K。",
            param="dtype",
        )
    return _PACKED_BITS.get(dtype, 0)


def _dtype(name: str) -> torch.dtype | None:
    if not name:
        return None
    if name not in _DTYPES:
        raise InvalidRequest(
            f"{name!r} is no dtype of the torch runtime; there are {', '.join([*_DTYPES, *_PACKED_BITS])}.",
            param="dtype",
        )
    return _DTYPES[name]


def _device(name: str) -> torch.device:
    """The named device, or the best there is.

    Raises:
        Unsupported: it is not there.
    """
    if not name:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise Unsupported(
            f"The device {name!r} cannot be used: {reason}",
            hint="'ninestory doctor' lists the devices; 'cpu' is always there.",
            hint_zh="ninestory doctor 会列出设备；cpu 始终可用。",
            param="device",
        ) from error
    return torch.device(name)
