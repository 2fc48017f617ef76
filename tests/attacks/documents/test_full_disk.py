"""On a full disk what takes room can be deleted: a small tmpfs in a mount namespace of the test's own is filled."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_SCRIPT = """
import io, os, sys
from pathlib import Path
from ninestory.core.errors import DiskFull
from ninestory.core.paths import Home
from ninestory.core.reserve import room_to_delete
from ninestory.core.state import State
from ninestory.floors.retrieval.ingest import IngestReport, add_paths
from ninestory.floors.retrieval.knowledge_base import create, list_bases, open_base, remove_base
from ninestory.serving.stores.files import FileStore

home, document = Home(Path(sys.argv[1])), Path(sys.argv[2])
for name in ("one", "two"):
    base = create(home, name, model="test:hashing")
    add_paths(base, [document], IngestReport())
    base.close()
files = FileStore(State(home.state_db), home.files)
upload = files.put(io.BytesIO(b"x" * 20_000), "x.txt", "assistants", max_bytes=1 << 20)["id"]

def fill():
    descriptor = os.open(home.root / "filler", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    try:
        while True:
            os.write(descriptor, bytes(4096))
    except OSError:
        assert os.statvfs(home.root).f_bavail == 0
    finally:
        os.close(descriptor)

def delete_document():
    base = open_base(home, "one")
    base.remove_file(base.files()[0].id)
    assert base.files() == [] and not list(base.documents.iterdir())
    base.close()

steps = {
    "base": lambda: remove_base(open_base(home, "two")),
    "document": delete_document,
    "upload": lambda: files.delete(upload),
}
fill()
try:
    steps[sys.argv[3]]()
except DiskFull:
    print("full without the reserve")
with room_to_delete(home.root):
    steps[sys.argv[3]]()
print("deleted")
"""


@pytest.mark.slow
@pytest.mark.parametrize("what", ["base", "document", "upload"])
def test_deleting_works_on_a_full_disk(tmp_path: Path, what: str) -> None:
    private = ["unshare", "--map-root-user", "--mount"]
    if subprocess.run([*private, "true"], capture_output=True, check=False).returncode:
        pytest.skip("hardware: this machine gives no mount namespace to its users")
    (tmp_path / "disk").mkdir()
    (tmp_path / "a.md").write_text("Apples are red. " * 500, encoding="utf-8")
    mounted = 'mount -t tmpfs -o size=6m disk "$1" && exec "$2" -c "$3" "$1" "$4" "$5"'
    command = [
        *private,
        "sh",
        "-ec",
        mounted,
        "sh",
        tmp_path / "disk",
        sys.executable,
        _SCRIPT,
        tmp_path / "a.md",
        what,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split("\n")[-2:] == ["deleted", ""], done.stderr
    assert "full without the reserve" in done.stdout
