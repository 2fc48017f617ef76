"""Plain text for further pre-training: texts put end to end and cut into blocks, so that nothing of a long one is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from ninestory.floors.finetuning.data_files import SourceRow
from ninestory.floors.finetuning.formats import InvalidRow, find_format
from ninestory.tokenizers.tokenizer import Tokenizer
from ninestory.training.batches import TokenRow

CORPUS = "corpus"


def corpus_blocks(
    rows: Iterable[SourceRow], tokenizer: Tokenizer, length: int, add_invalid: Callable[[SourceRow, str], None]
) -> Iterator[tuple[TokenRow, SourceRow]]:
    """Yield blocks of `length` tokens, all of them learned, each with the source row in which it begins; the last is shorter.

    The begin token stands before every text; where a vocabulary has none, the end token stands suffix it.

    Args:
        add_invalid: told of a row that holds no text, and why.
    """
    ids: list[int] = []
    begins: SourceRow | None = None
    suffix = [] if tokenizer.bos_ids else sorted(tokenizer.eos_ids)[:1]
    for row in rows:
        try:
            if row.fault:
                raise InvalidRow(row.fault)
            text = find_format(CORPUS)(row.values).completion
        except InvalidRow as why:
            add_invalid(row, str(why))
            continue
        begins = begins if ids else row
        ids += [*tokenizer.bos_ids, *tokenizer.encode(text), *suffix]
        while len(ids) >= length:
            assert begins is not None
            yield TokenRow(ids[:length], ids[:length]), begins
            ids, begins = ids[length:], row
    if begins is not None and len(ids) > 1:  # a single token predicts nothing
        yield TokenRow(ids, list(ids)), begins
