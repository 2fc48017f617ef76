"""What a model file or folder shows of itself without loading anything: config.json, and the names of its tensors."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

from ninestory.core.json_file import read_json
from ninestory.core.tasks import VERBS, Task
from ninestory.models import pickle_reader, safetensors_reader

ModelFormat = Literal["gguf", "safetensors", "pickle", "onnx", "ctranslate2", "remote"]

_SPEC_NAME_BYTES = 64  # longest name of a CTranslate2 spec that is looked at


@dataclass(frozen=True)
class ModelKind:
    """What a model is for.

    Attributes:
        tasks: what it can be asked to do, the main one first.
        format: which reader opens its files.
        family: of its architecture: "llama", "blip", "vits", …
    """

    tasks: tuple[Task, ...]
    format: ModelFormat
    family: str

    @property
    def verb(self) -> str:
        """The command that uses it."""
        return VERBS[self.tasks[0]]


@dataclass(frozen=True)
class Contents:
    """A model file, or the top of a model folder."""

    path: Path

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """config.json of a folder; empty where there is none.

        Raises:
            Damaged: it is no JSON object.
        """
        file = self.path / "config.json"
        return read_json(file) if file.is_file() else {}

    @property
    def model_type(self) -> str:
        return str(self.config.get("model_type", ""))

    @property
    def architecture(self) -> str:
        """The class that config.json names first, "" where it names none."""
        named = self.config.get("architectures")
        return str(named[0]) if isinstance(named, list) and named else ""

    @property
    def says_what_it_is(self) -> bool:
        """Whether config.json names a family, so that the names of tensors need not be looked at."""
        return bool(self.model_type or self.architecture)

    @cached_property
    def weights(self) -> list[Path]:
        """Files of tensors in safetensors' or torch's own form."""
        if self.path.is_file():
            return [] if is_gguf(self.path) or ctranslate2_spec(self.path) else [self.path]
        patterns = ("*.safetensors", "*.bin", "*.pth", "*.pt", "*.ckpt")
        return [file for pattern in patterns for file in sorted(self.path.glob(pattern)) if not ctranslate2_spec(file)]

    @property
    def format(self) -> ModelFormat:
        """Of the weights that would be read."""
        return "safetensors" if any(file.suffix == ".safetensors" for file in self.weights) else "pickle"

    @cached_property
    def tensors(self) -> frozenset[str]:
        """Names of all tensors.

        Raises:
            Damaged: a file is cut short, or asks for code.
        """
        names: set[str] = set()
        for file in self.weights:
            if file.suffix == ".safetensors":
                names.update(safetensors_reader.read_header(file).tensors)
            else:
                names.update(pickle_reader.read_pickle(file).tensors)
        return frozenset(names)

    def has_tensors(self, *prefixes: str) -> bool:
        """Whether some tensor begins with each of the prefixes."""
        return all(any(name.startswith(prefix) for name in self.tensors) for prefix in prefixes)


def contents_of(path: Path) -> Contents:
    """The contents of a file or folder, read once as long as nothing in it changes."""
    files = [path] if path.is_file() else sorted(path.iterdir()) if path.is_dir() else []
    state = tuple((file.name, (stat := file.stat()).st_mtime_ns, stat.st_size) for file in files if file.exists())
    return _contents(path, state)


@lru_cache(maxsize=64)
def _contents(path: Path, _state: tuple[tuple[str, int, int], ...]) -> Contents:
    return Contents(path)


def is_gguf(file: Path) -> bool:
    """Whether a file is a GGUF, by its suffix or its first bytes."""
    if file.suffix == ".gguf":
        return True
    with file.open("rb") as opened:
        return opened.read(4) == b"GGUF"


def is_pipeline(path: Path) -> bool:
    """Whether a folder is a Stable Diffusion pipeline as diffusers saves it: its models lie in folders of their own."""
    index = path / "model_index.json"
    return index.is_file() and str(read_json(index).get("_class_name", "")).startswith("StableDiffusion")


def ctranslate2_files(path: Path) -> list[Path]:
    """CTranslate2 models at the top of a folder."""
    return [file for file in sorted(path.glob("*.bin")) if ctranslate2_spec(file)]


def ctranslate2_spec(file: Path) -> str:
    """The name of the spec at the head of a CTranslate2 model ("WhisperSpec"); "" for any other file."""
    with file.open("rb") as opened:
        head = opened.read(6 + _SPEC_NAME_BYTES)
    if len(head) < 6:
        return ""
    version, length = struct.unpack_from("<IH", head)
    name = head[6 : 6 + length]
    ended = 1 <= version < 100 and 1 < length <= _SPEC_NAME_BYTES and name.endswith(b"Spec\0")
    return name[:-1].decode("ascii", errors="replace") if ended else ""
