"""Is a knowledge base sound? Its table is read whole and compared with its list of files."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np

from ninestory.core.errors import NinestoryError
from ninestory.floors.retrieval.knowledge_base import KnowledgeBase
from ninestory.floors.retrieval.table import ChunkReader

_UNIT = 1e-3  # how far from 1 a unit vector's length may be


def verify_base(base: KnowledgeBase) -> list[str]:
    """The faults found, one sentence each; an empty list when all is well."""
    faults = [f"{file.name} waits to be read; run 'ninestory kb sync'." for file in base.files("pending")]
    for file in base.files("indexed"):
        if not file.path.is_file():
            faults.append(f"{file.name}: its document {file.path} is gone.")
        elif file.path.parent == base.documents and file.sha256 != hashlib.sha256(file.path.read_bytes()).hexdigest():
            faults.append(f"{file.name}: its copy was changed.")
    reader = ChunkReader(base)
    try:
        if not reader.refresh():
            return faults
        table = reader.all_rows(["file_id", "text", "start", "end", "vector"])
    except NinestoryError as error:
        return [*faults, error.message]
    found = Counter(table["file_id"].to_pylist())
    for file in base.files("indexed"):
        if found.get(file.id, 0) != file.chunks:
            faults.append(f"{file.name}: {found.get(file.id, 0)} passages in the table, {file.chunks} were written.")
    lengths = zip(table["text"].to_pylist(), table["start"].to_pylist(), table["end"].to_pylist(), strict=True)
    if wrong := sum(len(text) != end - start for text, start, end in lengths):
        faults.append(f"{wrong} passages do not fit their offsets.")
    if len(table):
        vectors = np.stack(table["vector"].to_numpy(zero_copy_only=False)).astype(np.float32)
        norms = np.linalg.norm(vectors, axis=1)
        if bad := int((~np.isfinite(norms) | (abs(norms - 1) > _UNIT)).sum()):
            faults.append(f"{bad} vectors are not of length 1.")
    return faults
