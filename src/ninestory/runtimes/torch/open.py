"""A checkpoint's files → a running engine: weights, tokenizer, the linears that suit this processor."""

from __future__ import annotations

from typing import Any

import torch

from ninestory.core.config import RuntimeSettings
from ninestory.core.errors import InvalidRequest, Unsupported
from ninestory.models.resolved import ResolvedModel
from ninestory.runtimes.torch.adapters import apply_adapters
from ninestory.runtimes.torch.decoder import decoder_of
from ninestory.runtimes.torch.engine import TorchEngine
from ninestory.runtimes.torch.load_model import check_vocabulary, load_model
from ninestory.runtimes.torch.packed_linear import Int8Linear, linears, replace_linears
from ninestory.runtimes.torch.probe import choose_linears
from ninestory.tokenizers.load import load_tokenizer

DEFAULT_CONTEXT = 4096
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "int8": torch.float32}


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
    loaded, report = load_model(model, _dtype(settings.dtype), device, rwkv_strategy=strategy)
    rows = loaded.get_input_embeddings().num_embeddings  # type: ignore[operator]
    tokenizer = tokenizer or load_tokenizer(model.path, rows)
    check_vocabulary(tokenizer, rows, model.reference)
    context = settings.context or min(model.context or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
    apply_adapters(loaded, model.adapters)
    if strategy:
        dtype, note = strategy, "plain linears, as the strategy lays them out: last bits may depend on what else runs"
    else:
        dtype, note = _suit(loaded, settings.dtype, device)
    notes = [report.summary(), note]
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
        dtype=dtype,
        notes=notes,
    )


def _suit(model: Any, wanted: str, device: torch.device) -> tuple[str, str]:
    """Pack the linears for this processor; the dtype they compute in, and a note for the log."""
    dtype = str(model.dtype).removeprefix("torch.")
    if wanted == "int8":
        if device.type != "cpu":
            raise Unsupported(
                f"int8 is for processors; the device is {device}.",
                hint="Leave --dtype out on a GPU.",
                hint_zh="在 GPU 上请去掉 --dtype。",
                param="dtype",
            )
        replace_linears(model, dict.fromkeys(linears(model), Int8Linear))
        return "int8", "linears in int8; their rows do not depend on their neighbours"
    if device.type != "cpu" or model.dtype != torch.float32:
        return dtype, f"plain linears in {dtype}: last bits may depend on what else runs"
    choice = choose_linears(model)
    replace_linears(model, choice.classes)
    return dtype, choice.note


def _dtype(name: str) -> torch.dtype | None:
    if not name:
        return None
    if name not in _DTYPES:
        raise InvalidRequest(
            f"{name!r} is no dtype of the torch runtime; there are {', '.join(_DTYPES)}.", param="dtype"
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
