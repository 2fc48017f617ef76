"""Where a picture or a sound lies: by the digest of its bytes, or by path."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class MediaRef:
    """One picture or sound. Exactly one field is set.

    Attributes:
        digest: blake2b of the bytes in the home's spool, in hex; all that a request over HTTP may name.
        path: a file of the user's own, named by the command line, the library, or a job whose folder was checked.

    Raises:
        ValueError: both fields are set, or neither.
    """

    digest: str = ""
    path: str = ""

    def __post_init__(self) -> None:
        if bool(self.digest) == bool(self.path):
            raise ValueError(f"MediaRef is (digest={self.digest!r}, path={self.path!r}); expected exactly one of them")
