"""Plain text for further pre-training: texts put end to end and cut into blocks, so that nothing of a long one is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from ninestory.floors.finetuning.data_files import SourceRow
from ninestory.floors.finetuning.formats import InvalidRow, find_format
from ninestory.tokenizers.tokenizer import Tokenizer
from ninestory.training.batches import Row

CORPUS = "corpus"


def corpus_blocks(
    rows: Iterable[SourceRow], tokenizer: Tokenizer, length: int, leave_out: Callable[[SourceRow, str], None]
) -> Iterator[tuple[Row, SourceRow]]:
    """Blocks of `length` tokens, all of them learned, each with the source row in which it begins; the last is shorter.

    The begin token stands before every text; where a vocabulary has none, the end token stands behind it.

    Args:
        leave_out: told of a row that holds no text, and why.
    """
    ids: list[int] = []
    begins: SourceRow | None = None
    behind = [] if tokenizer.bos_ids else sorted(tokenizer.eos_ids)[:1]
    for row in rows:
        try:
            if row.fault:
                raise InvalidRow(row.fault)
            text = find_format(CORPUS)(row.values).completion
        except InvalidRow as why:
            leave_out(row, str(why))
            continue
        begins = begins if ids else row
        ids += [*tokenizer.bos_ids, *tokenizer.encode(text), *behind]
        while len(ids) >= length:
            assert begins is not None
            yield Row(ids[:length], ids[:length]), begins
            ids, begins = ids[length:], row
    if begins is not None and len(ids) > 1:  # a single token predicts nothing
        yield Row(ids, list(ids)), begins
