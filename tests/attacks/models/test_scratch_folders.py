"""A process that is killed leaves no socket and no half-made folder for long."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ninestory.core.scratch import LLAMA_SOCKETS, ScratchFolder, sweep_scratch
from tests import tiny_models

HOLDER = (
    "import sys, time\nfrom pathlib import Path\nfrom ninestory.core.scratch import ScratchFolder\n"
    "room = ScratchFolder('room-', Path(sys.argv[1]))\n(room.path / 'file').write_text('x')\n"
    "print(room.path, flush=True)\nsys.stdin.read()\n"
)


def hold(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_a_killed_process_s_folder_is_removed_by_the_next_and_a_living_one_s_is_not(tmp_path: Path) -> None:
    holders = [hold(tmp_path), hold(tmp_path)]
    killed, living = [Path((holder.stdout or sys.stdin).readline().strip()) for holder in holders]
    holders[0].kill()
    holders[0].wait()
    assert killed.is_dir()
    with ScratchFolder("room-", tmp_path) as third:
        assert set(tmp_path.iterdir()) == {living, third}
        assert third.stat().st_mode & 0o777 == 0o700
    holders[1].communicate()
    sweep_scratch("room-", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_follows_no_link_and_leaves_files_alone(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.mkdir()
    (target / "file").write_text("x")
    (tmp_path / "room-link").symlink_to(target)
    (tmp_path / "room-file").write_text("x")
    sweep_scratch("room-", tmp_path)
    assert (target / "file").is_file()
    assert (tmp_path / "room-file").is_file()


def _make_many(folder: str) -> None:
    for _ in range(100):
        with ScratchFolder("room-", Path(folder)) as room:
            (room / "file").write_text("x")
            assert (room / "file").is_file()


def test_many_at_once_do_not_take_each_other_s(tmp_path: Path) -> None:
    workers = [multiprocessing.get_context("fork").Process(target=_make_many, args=(str(tmp_path),)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_killed_llama_cpp_worker_s_socket_goes_with_the_next_load(tmp_path: Path) -> None:
    model = tiny_models.write_gguf(tmp_path / "tiny.gguf")
    code = (
        "import sys\nfrom pathlib import Path\nfrom ninestory.runtimes.llamacpp.library import Library\n"
        "library = Library(Path(sys.argv[1]), context=64, slots=1, threads=1, cache_mb=0)\n"
        "print('ready', flush=True)\nsys.stdin.readline()\nlibrary.close()\n"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path)}

    def load() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(model)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def sockets() -> list[Path]:
        return list(tmp_path.glob(f"{LLAMA_SOCKETS}*/llama.sock"))

    killed = load()
    assert len(sockets()) == 1
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    left = sockets()
    assert len(left) == 1
    second = load()
    assert len(sockets()) == 1
    assert sockets() != left
    second.communicate("\n", timeout=20)
    assert list(tmp_path.glob(f"{LLAMA_SOCKETS}*")) == []


@pytest.mark.slow
def test_a_long_folder_for_temporary_files_is_no_obstacle(tmp_path: Path) -> None:
    """A socket's path holds 107 bytes; the system's folder for temporary files may be longer."""
    model = tiny_models.write_gguf(tmp_path / "tiny.gguf")
    long = tmp_path / ("x" * 120)
    long.mkdir()
    code = (
        "import sys\nfrom pathlib import Path\nfrom ninestory.runtimes.llamacpp.library import Library\n"
        "Library(Path(sys.argv[1]), context=64, slots=1, threads=1, cache_mb=0).close()\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(model)], check=True, env=os.environ | {"TMPDIR": str(long)}, timeout=60
    )
    assert list(long.iterdir()) == []
