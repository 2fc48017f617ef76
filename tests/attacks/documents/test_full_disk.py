"""On a full disk what takes room can be deleted: a small tmpfs in a mount namespace of the test's own is filled."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_SCRIPT = """
import os, subprocess, sys
from pathlib import Path
from ninestory.core.errors import DiskFull
from ninestory.core.paths import Home
from ninestory.core.reserve import DiskReserve
from ninestory.floors.retrieval.ingest import IngestReport, add_paths
from ninestory.floors.retrieval.knowledge_base import create, open_base, remove_base

home, document = Home(Path(sys.argv[1])), Path(sys.argv[2])
for name in ("one", "two"):
    base = create(home, name, model="test:hashing")
    add_paths(base, [document], IngestReport())
    base.close()
one = open_base(home, "one").id

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
}
fill()
try:
    steps[sys.argv[3]]()
except DiskFull:
    print("full without the reserve")
if sys.argv[3] == "base":
    environment = {**os.environ, "NINESTORY_HOME": sys.argv[1]}
    subprocess.run([sys.executable, "-m", "ninestory", "kb", "rm", "two"], check=True, env=environment)
    assert [path.name for path in home.kb.iterdir()] == [one]
else:
    DiskReserve(home.reserve).release_if_low()
    delete_document()
print("deleted", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("what", ["base", "document"])
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
    assert done.stdout.endswith("deleted\n"), done.stderr
    assert "full without the reserve" in done.stdout
