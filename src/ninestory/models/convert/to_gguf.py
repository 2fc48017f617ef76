"""A checkpoint as one GGUF file for llama.cpp: sizes first, then one block of rows after another, then a rename.

Memory does not depend on the size of the model (a block of rows and the vocabulary), and neither torch nor
transformers is imported. The metadata records the source, the converter, and whether the logits were compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ninestory import __version__
from ninestory.core.errors import Conflict, Damaged
from ninestory.core.progress import Progress, Silent
from ninestory.models.convert.checkpoint import Checkpoint, open_checkpoint, row_ranges
from ninestory.models.convert.families import GgufFamily, family_of
from ninestory.models.convert.gguf_header import ALIGNMENT, encode_header, flag_offset
from ninestory.models.convert.gguf_tensor import GgufTensor
from ninestory.models.convert.gguf_tokenizer import tokenizer_metadata, tokenizer_notes
from ninestory.models.convert.quantize import KINDS, SMALL, check_kind, encode, kind_of_rows, nbytes_of
from ninestory.models.convert.stream import FilePart, write_stream
from ninestory.models.gguf_reader import read_gguf
from ninestory.models.gguf_semantics import check_gguf

CHECKED = "ninestory.checked"
_QUANTISATION_VERSION = 2  # of ggml's block formats
# Largest rms difference of the logits over their standard deviation that rounding explains. A wrong order of rows or
# a wrong tensor gives 1.4; small random models, which round worst, gave 3e-4 (F32), 0.04 (Q8_0) and 0.3 (four bits).
_LIMITS = {"F32": 0.01, "F16": 0.02, "BF16": 0.1, "Q8_0": 0.2, "Q6_K": 0.3}
_LIMIT_OF_FEW_BITS = 0.9


@dataclass(frozen=True)
class LogitCheck:
    """Comparison of the file's logits with the checkpoint's on the same tokens.

    Attributes:
        tokens: positions compared.
        largest: the largest difference of a logit (log-probabilities are as good).
        relative: the root mean square of the differences over the standard deviation of the logits.
        agreement: the share of positions where both have the same best token.
    """

    tokens: int
    largest: float
    relative: float
    agreement: float


@dataclass(frozen=True)
class GgufReport:
    path: Path
    architecture: str
    quant: str
    tensors: int
    nbytes: int
    source_bytes: int
    types: dict[str, int] = field(default_factory=dict)  # tensors of each type
    check: LogitCheck | None = None
    notes: list[str] = field(default_factory=list)


def convert_to_gguf(
    source: Path,
    target: Path,
    quant: str = "Q8_0",
    *,
    tokenizer: Path | None = None,
    chat_template: str = "",
    check: Callable[[Path], LogitCheck] | None = None,
    progress: Progress | None = None,
) -> GgufReport:
    """Write the checkpoint at `source` (folder, or RWKV's `.pth`) as the GGUF file `target`.

    Args:
        quant: type of the matrices; embedding and head are Q8_0 beside types of four bits and less.
        tokenizer: folder of the tokenizer where it is not the checkpoint's.
        chat_template: Jinja that takes the place of the checkpoint's own.
        check: given the finished file before it gets its name, compares its logits with the checkpoint's.

    Raises:
        Unsupported: a family or tokenizer that llama.cpp cannot run, or a type that cannot be made; by name.
        Damaged: an unsound file, values that are not finite, or logits that rounding does not explain.
        Conflict: `target` exists. DiskFull: no room; the same command goes on later.
    """
    check_kind(quant)
    if target.exists():
        raise Conflict(f"{target} exists.", hint="Choose another name.", hint_zh="请更换名称。", param="out")
    checkpoint = open_checkpoint(source)
    family = family_of(checkpoint)
    sizes, tensors = _described(checkpoint, family)
    kinds = {t.name: _kind(t, quant) for t in tensors}
    words = tokenizer or checkpoint.folder
    metadata = {
        **_provenance(checkpoint, quant),
        "general.architecture": family.architecture,
        **{f"{family.architecture}.{name}": value for name, value in sizes.items()},
        **tokenizer_metadata(words, sizes["vocab_size"], checkpoint.config),
        **({"tokenizer.chat_template": chat_template} if chat_template else {}),
    }
    header = encode_header(metadata, [(t.name, t.shape, kinds[t.name]) for t in tensors])
    del metadata  # the vocabulary, which the check of the finished file reads a second time
    checks: list[LogitCheck] = []

    def finish(part: Path) -> None:
        check_gguf(read_gguf(part))
        if check:
            checks.append(_judged(check(part), quant))
            with part.open("r+b") as file:
                file.seek(flag_offset(header, CHECKED))
                file.write(b"\x01")

    parts = [_part(t, kinds[t.name]) for t in tensors]
    write_stream(target, header, parts, progress or Silent(), align=ALIGNMENT, finish=finish)
    return GgufReport(
        path=target,
        architecture=family.architecture,
        quant=quant,
        tensors=len(tensors),
        nbytes=target.stat().st_size,
        source_bytes=sum(file.stat().st_size for file in checkpoint.files),
        types={kind: list(kinds.values()).count(kind) for kind in sorted(set(kinds.values()))},
        check=checks[0] if checks else None,
        notes=tokenizer_notes(words),
    )


def _provenance(checkpoint: Checkpoint, quant: str) -> dict[str, Any]:
    """Metadata on type, source and converter, with the logits marked as not yet compared."""
    name = checkpoint.path.resolve().name
    return {
        "general.type": "model",
        "general.name": name,
        "general.file_type": KINDS[quant][0],
        "general.quantization_version": _QUANTISATION_VERSION,
        "ninestory.converter": __version__,
        "ninestory.source": name,
        "ninestory.source_fingerprint": checkpoint.fingerprint(),
        CHECKED: False,
    }


def _described(checkpoint: Checkpoint, family: GgufFamily) -> tuple[dict[str, Any], list[GgufTensor]]:
    """The family's metadata and tensors, derived from config.json."""
    try:
        sizes = family.metadata(checkpoint)
        if odd := [f"{k} = {v!r}" for k, v in sizes.items() if v is None or (type(v) is int and not 0 <= v < 1 << 32)]:
            raise ValueError(", ".join(odd))
        return sizes, family.tensors(checkpoint)
    except (KeyError, TypeError, ValueError, ZeroDivisionError, IndexError) as error:
        raise Damaged(
            f"The config.json of {checkpoint.path.name} does not match its tensors: {error!r}.",
            hint="Complete the download (ninestory pull).",
            hint_zh="请补全下载（ninestory pull）。",
        ) from error


def _kind(tensor: GgufTensor, quant: str) -> str:
    if tensor.role == "small" or len(tensor.shape) != 2:
        return "F32"
    return kind_of_rows("Q8_0" if tensor.role == "ends" and quant in SMALL else quant, tensor.shape[-1])


def _part(tensor: GgufTensor, kind: str) -> FilePart:
    def blocks() -> Iterator[Any]:
        for start, stop in row_ranges(tensor.shape, 4):
            yield encode(tensor.rows(start, stop), kind, tensor.name)

    return FilePart(tensor.name, nbytes_of(tensor.shape, kind), blocks)


def _judged(check: LogitCheck, quant: str) -> LogitCheck:
    limit = _LIMITS.get(quant, _LIMIT_OF_FEW_BITS)
    if not check.relative <= limit:
        raise Damaged(
            f"The logits of the {quant} file differ by {check.relative:.3f} of their spread from the checkpoint's; up to "
            f"{limit} is rounding.",
            hint="Report it with the model's name; --no-check writes the file unchecked.",
            hint_zh="请附上模型名称反馈；--no-check 可写出未经检查的文件。",
            code="logits_differ",
        )
    return check


def is_checked(path: Path) -> bool:
    """Whether a GGUF's metadata records that its logits were compared with the source's."""
    return read_gguf(path).metadata.get(CHECKED) is True
