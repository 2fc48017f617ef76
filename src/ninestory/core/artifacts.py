"""What models made (pictures, sound): a row each with its origin, its bytes in the media spool.

`outputs/` is the user's view: one hard link per artifact, by day, that any file browser shows.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from ninestory.core.errors import InvalidRequest, NotFound
from ninestory.core.media import MediaSpool
from ninestory.core.state import State

SCHEMA: Final = (
    """
    CREATE TABLE artifacts (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        digest TEXT NOT NULL,
        media_type TEXT NOT NULL,
        bytes INTEGER NOT NULL,
        made_by TEXT NOT NULL,
        description TEXT NOT NULL,
        request TEXT NOT NULL,
        seed INTEGER,
        parents TEXT NOT NULL,
        output TEXT NOT NULL,
        created_at REAL NOT NULL
    ) STRICT;
    CREATE INDEX artifacts_digest ON artifacts (digest);
    """,
)

_SUFFIXES: Final = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/webp": ".webp",
    "image/gif": ".gif",
    "audio/wav": ".wav",
    "audio/flac": ".flac",
    "audio/ogg": ".ogg",
    "audio/mpeg": ".mp3",
}


@dataclass(frozen=True)
class Artifact:
    """One thing that a model made.

    Attributes:
        id: `art-` and 24 hexadecimal digits.
        digest: of its bytes in the media spool.
        made_by: the model reference.
        description: the words it is searched by (a prompt, a spoken text).
        request: the parameters that make it again.
        seed: of the random generator; None where nothing was drawn.
        parents: ids of the artifacts it was made from (an edited picture, an upscaled one).
        output: its file below `outputs/`.
        created_at: seconds since the epoch.
    """

    id: str
    digest: str
    media_type: str
    size: int
    made_by: str
    description: str
    request: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    parents: tuple[str, ...] = ()
    output: str = ""
    created_at: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"object": "artifact", "parents": list(self.parents)}


class ArtifactStore:
    """The artifacts of a home: rows in its state database, bytes in its spool, links in its `outputs/`."""

    def __init__(self, state: State, spool: MediaSpool, outputs: Path) -> None:
        self._state = state
        self._spool = spool
        self._outputs = outputs
        state.migrate("artifacts", SCHEMA)

    def add(
        self,
        digest: str,
        *,
        made_by: str,
        description: str,
        request: dict[str, Any],
        seed: int | None = None,
        parents: Sequence[str] = (),
    ) -> Artifact:
        """Record bytes that an engine has put into the spool, and link them into `outputs/`.

        Raises:
            NotFound: the spool has no such digest, or a parent does not exist.
        """
        media = self._spool.get(digest)
        for parent in parents:
            self.get(parent)
        now = time.time()
        artifact_id = f"art-{secrets.token_hex(12)}"
        name = (
            time.strftime("%H%M%S", time.localtime(now)) + f"-{artifact_id[4:12]}{_SUFFIXES.get(media.media_type, '')}"
        )
        output = Path(time.strftime("%Y-%m-%d", time.localtime(now))) / name
        _link(self._spool.path(digest), self._outputs / output)
        artifact = Artifact(
            artifact_id,
            digest,
            media.media_type,
            media.size,
            made_by,
            description,
            request,
            seed,
            tuple(parents),
            str(output),
            now,
        )
        self._state.execute(
            "INSERT INTO artifacts (id, digest, media_type, bytes, made_by, description, request, seed, parents, output,"
            " created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                artifact.id,
                artifact.digest,
                artifact.media_type,
                artifact.size,
                artifact.made_by,
                artifact.description,
                json.dumps(artifact.request, ensure_ascii=False),
                artifact.seed,
                json.dumps(artifact.parents),
                artifact.output,
                artifact.created_at,
            ),
        )
        return artifact

    def get(self, artifact_id: str) -> Artifact:
        """Raise NotFound if there is no such artifact."""
        rows = self._state.execute("SELECT * FROM artifacts WHERE id = ?", (artifact_id,))
        if not rows:
            raise _missing(artifact_id)
        return _artifact(rows[0])

    def list(
        self, *, words: str = "", kind: str | None = None, after: str | None = None, limit: int = 50
    ) -> Sequence[Artifact]:
        """Artifacts, newest first.

        Args:
            words: every one of these must occur in the description or the model's name.
            kind: the first half of the media type (`image`, `audio`).
            after: the id after which the page begins.
        """
        if kind is not None and kind not in ("image", "audio"):
            raise InvalidRequest(f"kind is {kind!r}; expected 'image' or 'audio'.", param="kind")
        conditions, parameters = ["1"], []
        for word in words.split():
            conditions.append("(description LIKE ? ESCAPE '\\' OR made_by LIKE ? ESCAPE '\\')")
            pattern = "%" + word.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
            parameters += [pattern, pattern]
        if kind is not None:
            conditions.append("media_type LIKE ?")
            parameters.append(f"{kind}/%")
        if after is not None:
            conditions.append("number < (SELECT number FROM artifacts WHERE id = ?)")
            parameters.append(after)
        rows = self._state.execute(
            f"SELECT * FROM artifacts WHERE {' AND '.join(conditions)} ORDER BY number DESC LIMIT ?",
            (*parameters, limit),
        )
        return [_artifact(row) for row in rows]

    def content(self, artifact_id: str) -> Path:
        """The file with its bytes. Raises NotFound."""
        return self._spool.path(self.get(artifact_id).digest)

    def delete(self, artifact_id: str) -> None:
        """Delete the row and its output; the spool's sweep removes bytes that nothing else refers to.

        Raises:
            NotFound: there is no such artifact.
        """
        rows = self._state.execute("DELETE FROM artifacts WHERE id = ? RETURNING output", (artifact_id,))
        if not rows:
            raise _missing(artifact_id)
        (self._outputs / rows[0]["output"]).unlink(missing_ok=True)

    def digests(self) -> frozenset[str]:
        """The digests that the spool must keep."""
        return frozenset(row["digest"] for row in self._state.execute("SELECT DISTINCT digest FROM artifacts"))


def _link(source: Path, target: Path) -> None:
    """Make `target` a hard link to `source`, or a copy where the file system has no links."""
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _artifact(row: sqlite3.Row) -> Artifact:
    return Artifact(
        id=row["id"],
        digest=row["digest"],
        media_type=row["media_type"],
        size=row["bytes"],
        made_by=row["made_by"],
        description=row["description"],
        request=json.loads(row["request"]),
        seed=row["seed"],
        parents=tuple(json.loads(row["parents"])),
        output=row["output"],
        created_at=row["created_at"],
    )


def _missing(artifact_id: str) -> NotFound:
    return NotFound(
        f"There is no artifact {artifact_id[:80]!r}.",
        hint="GET /ninestory/v1/artifacts lists them; it may have been deleted.",
        hint_zh="GET /ninestory/v1/artifacts 列出全部作品；它可能已被删除。",
        code="artifact_not_found",
    )
