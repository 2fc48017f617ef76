"""Typed errors: what happened, and what to do about it, in both languages.

Every error a user can meet is a `NinestoryError`. The command line prints it, the API returns it in OpenAI's shape
(`serving/errors.py`), the page shows it as a toast. Nothing below the two ways in catches one to hide it.
"""

from __future__ import annotations

from typing import Any, ClassVar


class NinestoryError(Exception):
    """An error at a boundary.

    Args:
        message: one sentence: the cause and the value seen.
        hint: one sentence: the cure (English).
        hint_zh: the same cure in Chinese; falls back to `hint`.
        param: the field, flag or key at fault, when there is one.
        code: a stable machine-readable name; defaults to the class's.
    """

    status: ClassVar[int] = 500
    default_code: ClassVar[str] = "internal_error"
    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        hint_zh: str = "",
        param: str | None = None,
        code: str | None = None,
        **details: Any,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.hint_zh = hint_zh or hint
        self.param = param
        self.code = code or self.default_code
        self.details = details

    def as_dict(self) -> dict[str, Any]:
        """The error as plain JSON data; `from_dict` is its inverse (it crosses the worker's socket)."""
        return {
            "type": type(self).__name__,
            "message": self.message,
            "hint": self.hint,
            "hint_zh": self.hint_zh,
            "param": self.param,
            "code": self.code,
            "details": self.details,
        }


class InvalidRequest(NinestoryError):
    """The request itself is wrong: a bad value, an unknown field, a field we cannot honour (HTTP 400, exit 2)."""

    status, default_code, exit_code = 400, "invalid_request", 2


class ContextOverflow(InvalidRequest):
    """The prompt and the tokens asked for exceed the context; the message holds both numbers."""

    default_code = "context_length_exceeded"


class Unauthorized(NinestoryError):
    status, default_code, exit_code = 401, "invalid_api_key", 4


class Forbidden(NinestoryError):
    status, default_code, exit_code = 403, "forbidden", 4


class NotFound(NinestoryError):
    """A model, file, job or other named thing does not exist (HTTP 404, exit 3)."""

    status, default_code, exit_code = 404, "not_found", 3


class Conflict(NinestoryError):
    """Someone else changed or holds the thing (HTTP 409)."""

    status, default_code, exit_code = 409, "conflict", 5


class TooLarge(NinestoryError):
    status, default_code, exit_code = 413, "request_too_large", 2


class Damaged(NinestoryError):
    """A file is not what it says it is: truncated, corrupt, lying offsets, wrong checksum, unsafe pickle."""

    status, default_code, exit_code = 422, "damaged_file", 6


class Unsupported(NinestoryError):
    """The thing is well-formed, but this runtime, family or build cannot do it; said by name."""

    status, default_code, exit_code = 400, "unsupported", 2


class MissingExtra(NinestoryError):
    """An optional dependency is not installed; the hint is the one line that installs it."""

    status, default_code, exit_code = 501, "missing_extra", 7


class DoesNotFit(NinestoryError):
    """The memory plan says that it does not fit; the hint names the largest variant that does."""

    status, default_code, exit_code = 507, "does_not_fit", 8


class Busy(NinestoryError):
    """A queue is full (HTTP 429) — `details["retry_after"]` holds seconds."""

    status, default_code, exit_code = 429, "queue_full", 9


class Unavailable(NinestoryError):
    """A worker died, is restarting or draining (HTTP 503) — `details["retry_after"]` holds seconds."""

    status, default_code, exit_code = 503, "worker_unavailable", 9


class TimedOut(NinestoryError):
    status, default_code, exit_code = 504, "timeout", 9


class RemoteFailed(NinestoryError):
    """A remote endpoint or hub failed or refused; the message holds its status and words."""

    status, default_code, exit_code = 502, "remote_error", 10


class DiskFull(NinestoryError):
    status, default_code, exit_code = 507, "disk_full", 11


class Cancelled(NinestoryError):
    """The caller asked to stop. Not a failure; used to unwind."""

    status, default_code, exit_code = 499, "cancelled", 130


_CLASSES: tuple[type[NinestoryError], ...] = (NinestoryError, *NinestoryError.__subclasses__(), ContextOverflow)
_BY_NAME = {cls.__name__: cls for cls in _CLASSES}


def from_dict(data: dict[str, Any]) -> NinestoryError:
    """Rebuild an error written by `as_dict` (from a worker process or a job row)."""
    cls = _BY_NAME.get(data.get("type", ""), NinestoryError)
    return cls(
        data["message"],
        hint=data.get("hint", ""),
        hint_zh=data.get("hint_zh", ""),
        param=data.get("param"),
        code=data.get("code"),
        **data.get("details", {}),
    )
