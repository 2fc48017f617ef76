"""The rule all editable rows share: a write names the revision it was made from, and a stale one changes nothing."""

from __future__ import annotations

from ninestory.core.errors import Conflict, NotFound


def check_revision(what: str, stored: int, given: int) -> None:
    """Raises Conflict when someone else (another tab) has written since `given` was read."""
    if stored != given:
        raise Conflict(
            f"This {what} has revision {stored} now; the change was made from {given}.",
            hint="Load it again and repeat the change.",
            hint_zh="请重新加载后再修改。",
            param="revision",
            code="stale_revision",
            revision=stored,
        )


def missing(what: str, what_zh: str, row_id: str) -> NotFound:
    return NotFound(
        f"There is no {what} {row_id[:80]!r}.",
        hint="It may have been deleted in another tab or program.",
        hint_zh=f"该{what_zh}可能已在其他标签页或程序中删除。",
        code=f"{what.replace(' ', '_')}_not_found",
    )
