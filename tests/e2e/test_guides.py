"""The guides' commands really run, in order, as they stand in the text, in both languages.

A stand-in store maps what a guide names to something small that is here: the starter's file under a catalogue name,
and a fake OpenAI server on loopback.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from .command_server import write_command
from .guide_stand_ins import STAND_INS

GUIDES = Path(__file__).resolve().parents[2] / "docs" / "guides"
NAMES = sorted(path.stem for path in (GUIDES / "en").glob("*.md"))
BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)
GUIDE_PORT = "8909"


def commands(path: Path) -> list[str]:
    blocks = BLOCK.findall(path.read_text(encoding="utf-8"))
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("name", NAMES)
def test_both_languages_carry_the_same_commands(name: str) -> None:
    assert commands(GUIDES / "en" / f"{name}.md") == commands(GUIDES / "zh" / f"{name}.md") != []


def test_the_indexes_name_every_guide() -> None:
    for index, language in (("README.md", "en"), ("README.zh-CN.md", "zh")):
        text = (GUIDES / index).read_text(encoding="utf-8")
        assert all(f"{language}/{name}.md" in text for name in NAMES)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """A fake OpenAI server."""
    port = free_port()
    program = Path(__file__).resolve().parents[1] / "fake_openai.py"
    process = subprocess.Popen([sys.executable, str(program), "--port", str(port)], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}/v1"
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def tools() -> Iterator[Path]:
    """A folder with the command `ninestory`, as it would be installed."""
    with tempfile.TemporaryDirectory() as place:  # a socket's path must be short
        folder, address = Path(place), Path(place) / "commands"
        program = Path(__file__).parent / "command_server.py"
        server = subprocess.Popen([sys.executable, str(program), str(address)], env={**os.environ, "LANG": "C.UTF-8"})
        write_command(folder / "ninestory", address)
        deadline = time.monotonic() + 120
        while not address.exists():
            assert time.monotonic() < deadline and server.poll() is None
            time.sleep(0.05)
        yield folder
        server.kill()
        server.wait()


@pytest.mark.slow
@pytest.mark.starter
@pytest.mark.parametrize("name", NAMES)
def test_every_command_of_a_guide_runs(
    name: str, tmp_path: Path, endpoint: str, tools: Path, starter_gguf: Path
) -> None:
    home = tmp_path / "home"
    folder = home / "models" / "catalogue" / "gpt4all" / "falcon-q4_0"
    folder.mkdir(parents=True)
    (folder / "model.gguf").symlink_to(starter_gguf)
    if prepare := STAND_INS.get(name):
        prepare(tmp_path)
    environ = {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "NINESTORY_HOME": str(home),
        "NINESTORY_RUNTIME_THREADS": "1",
        "OPENAI_BASE_URL": endpoint,
        "OPENAI_API_KEY": "none",
    }
    port = str(free_port())
    background: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands(GUIDES / "en" / f"{name}.md"):
            command = command.replace(GUIDE_PORT, port)
            if command.endswith("&"):
                process = subprocess.Popen(
                    ["sh", "-c", command[:-1]], cwd=tmp_path, env=environ, start_new_session=True
                )
                background.append(process)
                wait_for_server(port)
                continue
            done = subprocess.run(
                ["sh", "-c", command], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120
            )
            assert done.returncode == 0, f"$ {command}\n{done.stdout}\n{done.stderr}"
            assert done.stdout.strip(), f"$ {command} printed nothing"
    finally:
        for process in background:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)


def wait_for_server(port: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            httpx.get(f"http://127.0.0.1:{port}/health").raise_for_status()
            return
        except httpx.HTTPError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
