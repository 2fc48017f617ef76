"""1,000 damaged model files: what `verify` passes must not kill a process, and verifying must not grow without bound."""

from __future__ import annotations

import os
import pickle
import random
import re
import select
import struct
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from ninestory.models.gguf_architectures import TABLES
from tests import tiny_models

SEED = 3
LLAMA_FILES, FILES_OF_EACH_OTHER, SAFETENSORS_FILES, PICKLE_FILES = 400, 40, 150, 150
SECONDS_PER_FILE = 60  # a hang, on however busy a machine
EXTREMES = [0, 1, 2, 3, 7, 31, 255, 256, 1000, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 64) - 1]
HEADER_KEYS = [
    ".block_count", ".embedding_length", ".feed_forward_length", ".attention.head_count",
    ".attention.head_count_kv", ".attention.layer_norm_rms_epsilon", ".context_length",
    ".rope.dimension_count", ".vocab_size", "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.unknown_token_id", "tokenizer.ggml.scores", "tokenizer.ggml.token_type", "tokenizer.ggml.tokens",
    "general.architecture",
]  # fmt: skip


class Opener:
    """The child that verifies and opens; started again whenever a file has killed it."""

    def __init__(self, folder: Path) -> None:
        self.environment = {**os.environ, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self.errors = (folder / "stderr").open("w+")
        self._start()

    def _start(self) -> None:
        self.child = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.model_opener"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, env=self.environment,
        )  # fmt: skip

    def open(self, path: Path) -> str:
        """What the child says of a file; "killed …" when it died of it or never came back."""
        assert self.child.stdin and self.child.stdout
        self.child.stdin.write(f"{path}\n")
        self.child.stdin.flush()
        ready, _, _ = select.select([self.child.stdout], [], [], SECONDS_PER_FILE)
        answer = self.child.stdout.readline().strip() if ready else ""
        if answer.startswith(("refused", "declined", "opened")):  # an abort prints its stack here
            return answer
        self.child.kill()
        code = self.child.wait()
        self.errors.seek(0)
        words = self.errors.read()[-600:]
        self.close()
        self._start()
        return f"killed ({code}): {words}"

    def close(self) -> None:
        for pipe in (self.child.stdin, self.child.stdout):
            assert pipe
            pipe.close()
        self.child.wait(timeout=30)


@pytest.fixture
def opener(tmp_path: Path) -> Iterator[Opener]:
    made = Opener(tmp_path)
    yield made
    made.close()


def flipped(raw: bytearray, draw: random.Random, until: int) -> None:
    for _ in range(draw.randint(1, 4)):
        raw[draw.randrange(until)] = draw.randrange(256)


def cut(raw: bytearray, draw: random.Random, until: int) -> None:
    del raw[draw.randrange(len(raw)) :]


def removed(raw: bytearray, draw: random.Random, until: int) -> None:
    at = draw.randrange(until)
    del raw[at : at + draw.randint(1, 40)]


def copied(raw: bytearray, draw: random.Random, until: int) -> None:
    """A piece of the header written over another: equal tokens, equal names, swapped types."""
    length, source, target = draw.randint(1, 48), draw.randrange(until), draw.randrange(until)
    piece = raw[source : min(until, source + length)]
    raw[target : target + len(piece)] = piece


def extreme(raw: bytearray, draw: random.Random, until: int) -> None:
    value, width = draw.choice(EXTREMES), draw.choice([4, 8])
    at = draw.randrange(until - 8)
    raw[at : at + width] = (value & ((1 << 8 * width) - 1)).to_bytes(width, "little")


def longer(raw: bytearray, draw: random.Random, until: int) -> None:
    raw.extend(draw.randbytes(draw.randint(1, 5000)))


def lying_key(raw: bytearray, draw: random.Random, until: int) -> None:
    """The type or the value of a named key replaced; of a list, its type, length or one entry."""
    at = -1
    while at < 0:  # not every architecture has every key
        name = draw.choice(HEADER_KEYS).encode()
        at = raw.find(name)
    at += len(name)
    kind = int.from_bytes(raw[at : at + 4], "little")
    if draw.random() < 0.3:
        raw[at : at + 4] = struct.pack("<I", draw.choice([0, 1, 4, 5, 6, 7, 8, 9, 10, 12, 13, draw.getrandbits(32)]))
    elif kind == 9:
        where = draw.choice([at + 4, at + 8, at + 16 + 4 * draw.randrange(260)])
        raw[where : where + 4] = struct.pack("<I", draw.choice(EXTREMES) & 0xFFFFFFFF)
    else:
        wild = struct.pack("<f", draw.choice([0.0, -1.0, 1.0, 1e30, float("nan"), float("inf"), -0.0]))
        raw[at + 4 : at + 8] = draw.choice([wild, struct.pack("<I", draw.choice(EXTREMES) & 0xFFFFFFFF)])


def another_token(raw: bytearray, draw: random.Random, until: int) -> None:
    """One token's text replaced by another's, or by bytes of the same length that are no text."""
    names = [f"<0x{i:02X}>".encode() for i in range(256)]
    at = raw.find(draw.choice(names))
    raw[at : at + 6] = draw.choice([draw.choice(names), b"<0xGG>", b"\xff" * 6, bytes(6)])


def tensor_entry(raw: bytearray, draw: random.Random, until: int) -> None:
    """A dimension, type, offset or letter of the name of one tensor."""
    names = list(re.finditer(rb"blk\.\d\.[a-z_]+\.weight|(token|output)_[a-z]+\.(weight|bias)", raw))
    name = draw.choice(names).group()
    at = raw.find(struct.pack("<Q", len(name)) + name) + 8
    end = at + len(name)
    where = draw.choice([at + draw.randrange(len(name)), end, end + 4, end + 12, end + 20, end + 24])
    raw[where : where + 4] = struct.pack("<I", draw.choice([*EXTREMES, 64, 96, 32, 128, 8]) & 0xFFFFFFFF)


COMMON = [flipped, cut, removed, copied, extreme, longer]
OF_GGUF = [*COMMON, lying_key, lying_key, lying_key, another_token, tensor_entry, tensor_entry]


def damage(path: Path, whole: bytes, header: int, moves: list[object], draw: random.Random) -> str:
    raw = bytearray(whole)
    move = draw.choice(moves)
    move(raw, draw, min(header, len(raw)))  # type: ignore[operator]
    path.write_bytes(raw)
    return getattr(move, "__name__", "")


def seeds(folder: Path) -> Iterator[tuple[Path, int, list[object], int]]:
    """A sound file, how much of it is damaged (its header, mostly), how it is damaged, how often."""
    path = tiny_models.write_gguf(folder / "llama.gguf")
    yield path, path.read_bytes().find(b"blk.1.ffn_down.weight") + 60, [*OF_GGUF], LLAMA_FILES
    for architecture, tables in TABLES.items():
        table = tables[0](tiny_models.SIZES).required
        path = tiny_models.write_architecture(folder / f"{architecture}.gguf", architecture, table)
        yield path, path.read_bytes().rfind(b".weight") + 60, [*OF_GGUF], FILES_OF_EACH_OTHER
    path = tiny_models.write_safetensors(folder / "seed.safetensors")
    yield path, 2 * struct.unpack("<Q", path.read_bytes()[:8])[0], [*COMMON], SAFETENSORS_FILES
    path = folder / "seed.pth"
    entries = b"".join(b"X\x02\x00\x00\x00w%d" % i + _TENSOR for i in range(4))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}(" + entries + b"X\x01\x00\x00\x00nK\x07u.")
        archive.writestr("archive/data/0", struct.pack("<64f", *range(64)))
    yield path, path.stat().st_size, [*COMMON], PICKLE_FILES


_STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x40tQ"
_TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n(" + _STORAGE + b"K\x00K\x08K\x08\x86K\x08K\x01\x86\x89"
    b"ccollections\nOrderedDict\n)RtR"
)


@pytest.mark.slow
def test_no_damaged_file_that_verify_passes_kills_the_process(tmp_path: Path, opener: Opener) -> None:
    draw = random.Random(int(os.environ.get("NINESTORY_TEST_SEED", SEED)))
    times = int(os.environ.get("NINESTORY_TEST_TIMES", 1))
    counted: Counter[tuple[str, str]] = Counter()
    killed = []
    for seed, header, moves, count in seeds(tmp_path):
        assert opener.open(seed) == "opened"
        for i in range(count * times):
            path = tmp_path / f"damaged{seed.suffix}"
            move = damage(path, seed.read_bytes(), header, moves, draw)
            answer = opener.open(path)
            counted[seed.suffix, answer.split()[0]] += 1
            if answer.startswith("killed"):
                killed.append(f"{seed.name} {i} {move}: {answer}")
                if times > 1:
                    path.rename(Path("/tmp") / f"killed-{len(killed)}-{seed.name}")
    print(dict(counted))
    assert not killed, "\n".join(killed[:5])
    for suffix in (".gguf", ".safetensors", ".pth"):  # neither everything nor nothing passes
        assert counted[suffix, "opened"] > 10 and counted[suffix, "refused"] > 10, counted


TOKENS = tiny_models.VOCABULARY
ABORTING = {
    "no layers": {"layers": 0},
    "1,000 layers": {"layers": 1000},
    "2^32 - 1 layers": {"layers": (1 << 32) - 1},
    "epsilon of 0": {"rms_epsilon": 0.0},
    "epsilon that is no number": {"rms_epsilon": float("nan")},
    "three heads": {"heads": 3},
    "three key heads": {"kv_heads": 3},
    "a token beyond the vocabulary": {"bos": len(TOKENS)},
    "two equal tokens": {"tokens": [*TOKENS[:-1], "a"]},
    "a byte token missing": {"tokens": [t.replace("<0x41>", "<0x4141>") for t in TOKENS]},
    "fewer scores than tokens": {"scores": [0.0]},
    "fewer types than tokens": {"types": [1]},
    "scores that are bytes": {"scores": [True] * len(TOKENS)},
    "types that are bytes": {"types": [True] * len(TOKENS)},
}


@pytest.mark.parametrize("name", ABORTING)
def test_headers_known_to_abort_llama_cpp_are_refused(name: str, tmp_path: Path) -> None:
    from ninestory.core.errors import Damaged
    from ninestory.models.verify import verify

    path = tiny_models.write_gguf(tmp_path / "m.gguf", **ABORTING[name])
    with pytest.raises(Damaged):
        verify(path)


def test_a_malicious_checkpoint_runs_nothing_through_the_command_line(tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class Attack:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {canary}",)

    path = tmp_path / "pytorch_model.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Attack(), protocol=2))
    done = subprocess.run([sys.executable, "-m", "ninestory", "verify", str(path)], capture_output=True, text=True)
    assert done.returncode == 6
    assert "posix system" in done.stderr + done.stdout
    assert not canary.exists()
