"""A real server in a process of its own, for the tests of the API: started, killed and started again on one home."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

import httpx

MODEL = "starter:smollm2-135m-instruct"

_PROGRAM = """
import sys
from pathlib import Path
from ninestory.core.config import load_settings
from ninestory.core.paths import Home
from ninestory.serving.run import serve
serve(load_settings(project=Path("/nonexistent"), user=Path("/nonexistent")), Home(Path(sys.argv[1])),
      lambda line: print(line, flush=True))
"""


class ApiServer:
    """A server on a free port. `settings` are environment variables without their NINESTORY_ prefix."""

    def __init__(self, home: Path, **settings: str) -> None:
        self.home = home
        environ = {f"NINESTORY_{name.upper()}": value for name, value in settings.items()}
        defaults = {"NINESTORY_SERVE_PORT": "0", "NINESTORY_RUNTIME_THREADS": "1", "NINESTORY_RUNTIME_CONTEXT": "1024"}
        self._environ = {**os.environ, **defaults, **environ}
        self.key = settings.get("serve_api_key", "")

    def start(self) -> ApiServer:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(self.home)], stdout=subprocess.PIPE, text=True, env=self._environ
        )
        assert self.process.stdout is not None
        banner = self.process.stdout.readline()
        assert "http://" in banner, banner
        self.url = "http://" + banner.split("http://")[1].split()[0]
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        self.http = httpx.Client(base_url=self.url, headers=headers, timeout=120)
        deadline = time.monotonic() + 60
        while True:
            try:
                self.http.get("/health").raise_for_status()
                return self
            except httpx.TransportError:
                assert time.monotonic() < deadline and self.process.poll() is None, "the server did not start"
                time.sleep(0.05)

    def kill(self) -> None:
        """End the server the hard way."""
        self.http.close()
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """End the server in good order; returns its exit code."""
        self.http.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def __enter__(self) -> ApiServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.stop()
