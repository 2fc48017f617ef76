"""Runs `ninestory` commands in forks of one process that has imported everything: a command costs no start of Python.

The real program with its own arguments, directory, environment and standard streams; only `import torch` and the like
happened once, before. `command_server.py SOCKET` serves; the script that `write_command` makes is the client.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

_IMPORTED = (
    "ninestory.cli.app", "ninestory.cli.chat.chat", "ninestory.cli.convert", "ninestory.cli.merge", "ninestory.cli.finetuning.tune",
    "ninestory.runtimes.load", "ninestory.runtimes.torch.open", "ninestory.floors.chat", "ninestory.models.doctor",
    "ninestory.floors.finetuning.tuning", "ninestory.jobs.handlers", "openai", "peft", "lancedb", "onnxruntime",
    "torch.utils.tensorboard.writer", "matplotlib.backends.backend_agg", "matplotlib.figure",
)  # fmt: skip
_CLIENT = """#!{python} -SE
import json, os, socket, sys
if "serve" in sys.argv[1:2]:  # a process of its own, which a test ends
    os.execv({python!r}, [{python!r}, "-m", "ninestory", *sys.argv[1:]])
link = socket.socket(socket.AF_UNIX)
link.connect({socket!r})
asked = json.dumps({{"arguments": sys.argv, "directory": os.getcwd(), "environment": dict(os.environ)}})
socket.send_fds(link, [len(asked.encode()).to_bytes(8, "big")], [0, 1, 2])
link.sendall(asked.encode())
sys.exit(int(link.recv(16) or b"70"))
"""


def write_command(path: Path, address: Path) -> None:
    """The executable `ninestory` that has its work done by the server at `address`."""
    path.write_text(_CLIENT.format(python=sys.executable, socket=str(address)))
    path.chmod(0o755)


def serve(address: Path) -> None:
    import importlib

    for name in _IMPORTED:
        with contextlib.suppress(ImportError):  # an extra that is not installed here
            importlib.import_module(name)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(address))
    listener.listen()
    while True:
        link, _ = listener.accept()
        length, streams, _, _ = socket.recv_fds(link, 8, 3)
        asked = json.loads(_received(link, int.from_bytes(length, "big")))
        child = os.fork()
        if child == 0:
            listener.close()
            _run(asked, streams)
        for stream in streams:
            os.close(stream)
        threading.Thread(target=_report, args=(child, link)).start()


def _received(link: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += link.recv(count - len(data))
    return data


def _run(asked: dict[str, Any], streams: list[int]) -> None:
    """The command, in the forked process."""
    code: int | str | None = 70
    try:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.chdir(asked["directory"])
        os.environ.clear()
        os.environ.update(asked["environment"])
        sys.argv = ["ninestory", *asked["arguments"][1:]]
        from ninestory.cli.app import main

        main()
        code = 0
    except SystemExit as ended:
        code = ended.code
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def _report(child: int, link: socket.socket) -> None:
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(OSError):
        link.sendall(str(os.waitstatus_to_exitcode(status) % 256).encode())
    link.close()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    serve(Path(sys.argv[1]))
