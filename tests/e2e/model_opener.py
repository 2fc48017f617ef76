"""A child process: verifies each file named on its input and opens what passes, as a worker would.

One line in, one line out: "refused …" (by verify), "declined …" (by the library, cleanly) or "opened". When native code
aborts, the process is gone and the parent knows which file it was. Memory is limited, so growth is a failure here.
"""

from __future__ import annotations

import resource
import sys
import threading
from pathlib import Path

from ninestory.core.errors import Damaged, NinestoryError
from ninestory.models import pickle_reader
from ninestory.models.gguf_reader import read_gguf
from ninestory.models.verify import verify

ADDRESS_SPACE_BYTES = 4 << 30


def _open(path: Path) -> None:
    if path.suffix == ".gguf":
        _generate(path)
    elif path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        load_file(path)
    else:
        file = pickle_reader.read_pickle(path)
        for name in file.tensors:
            pickle_reader.read_tensor(file, name).sum()


def _generate(path: Path) -> None:
    """Four tokens or a vector, and a text that needs byte tokens."""
    from ninestory.runtimes.llamacpp.library import Library

    embeds = read_gguf(path).architecture == "bert"
    pooling = "mean" if embeds else ""
    library = Library(path, context=64, slots=1, threads=1, cache_mb=0, device="cpu", embeds=embeds, pooling=pooling)
    try:
        library.post("/tokenize", {"content": "a ab 塔\x07"})
        if embeds:
            library.embeddings({"input": "a ab"})
            return
        for _ in library.stream({"prompt": [1, 4, 5], "n_predict": 4, "temperature": 0.0}, threading.Event()):
            pass
    finally:
        library.close()


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        path = Path(line.rstrip("\n"))
        try:
            verify(path)
        except Damaged as error:
            answer = f"refused {error.message}"
        else:
            try:
                _open(path)
                answer = "opened"
            except NinestoryError as error:
                answer = f"declined {error.message}"
        print(answer.replace("\n", " "), flush=True)


if __name__ == "__main__":
    main()
