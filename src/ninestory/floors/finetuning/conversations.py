"""Long conversations cut to the window, and those with a wrong order of roles found (FastChat's data cleaning)."""

from __future__ import annotations

from collections.abc import Sequence


def has_valid_roles(roles: Sequence[str]) -> bool:
    """Whether user and assistant alternate, beginning with the user, and there is an answer."""
    return len(roles) > 1 and all(role == ("user", "assistant")[i % 2] for i, role in enumerate(roles))


def split_long(lengths: Sequence[int], max_length: int) -> list[range]:
    """Cut a conversation between its rounds so that no piece is longer than `max_length`.

    Args:
        lengths: tokens of each message, questions and answers in turn, each with what its template adds.

    Returns:
        The indices of the messages of each piece. A round that is too long by itself is a piece by itself; a question
        without an answer at the end is left out.

    >>> split_long([10, 10, 10, 10, 30, 30, 5], 45)
    [range(0, 4), range(4, 6)]
    """
    pieces, start, total = [], 0, 0
    for at in range(0, len(lengths) - 1, 2):
        size = lengths[at] + lengths[at + 1]
        if total and total + size > max_length:
            pieces.append(range(start, at))
            start, total = at, 0
        total += size
    end = len(lengths) - len(lengths) % 2
    return [*pieces, range(start, end)] if end > start else pieces
