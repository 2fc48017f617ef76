"""How fast retrieval is: parsing, ingest beside langchain, and a knowledge base of 100,000 passages.

    python benchmarks/retrieval_speed.py parsing /usr
    python benchmarks/retrieval_speed.py ingest /usr VENV     # VENV is made (pip) when it is not there
    python benchmarks/retrieval_speed.py processes /usr
    python benchmarks/retrieval_speed.py store /usr
    python benchmarks/retrieval_speed.py large 1024
    python benchmarks/retrieval_speed.py resumed 256

Everything but `processes` runs on one core (the process pins itself) with one thread.
"""

from __future__ import annotations

import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from retrieval_corpus import pages, write_sections

from ninestory.core.config import RuntimeSettings, Settings
from ninestory.core.errors import Cancelled
from ninestory.core.paths import Home
from ninestory.core.progress import Silent
from ninestory.floors.retrieval.embedder import Embedder
from ninestory.floors.retrieval.ingest import IngestReport, ingest, sync_folder
from ninestory.floors.retrieval.knowledge_base import (
    DEFAULT_MODEL,
    KnowledgeBase,
    base_ids,
    create,
    open_by_id,
    remove_base,
)
from ninestory.floors.retrieval.parsing import parse
from ninestory.floors.retrieval.table import ChunkReader, ChunkWriter
from ninestory.models.resolve import resolve
from ninestory.runtimes.load import load_engine
from ninestory.runtimes.protocol import Chunk, EmbeddingRequest, Embeddings, EngineInfo, Feed, Request
from ninestory.serving.routes.system import processor_name

PASSAGES, DIMENSIONS = 100_000, 384
QUESTIONS = 400
INGEST_FILES = 120
PACKAGES = ["torch==2.13.0", "sentence-transformers", "langchain-text-splitters", "langchain-community", "faiss-cpu"]


def cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def measure_parsing(root: Path) -> None:
    found = pages(root)
    size = sum(path.stat().st_size for path in found)
    seconds = min(_timed(lambda: [parse(path) for path in found]) for _ in range(3))
    print(
        f"HTML: {len(found)} pages of the manuals, {size / 1e6:.1f} MB, {size / 1e6 / seconds:.1f} MB per CPU-second.\n"
    )
    for path in (root / "share/debian-reference").glob("debian-reference*.pdf"):
        _measure_pdf(path)
    with tempfile.TemporaryDirectory() as folder:
        from tests import documents

        text = [f"Sentence {n} of this page tells of word{n}, and goes on to the end of its line." for n in range(40)]
        _measure_pdf(documents.pdf(Path(folder) / "made.pdf", [text] * 500))


def _measure_pdf(path: Path) -> None:
    """Text only: a page that is a picture would be read by OCR, which is measured in seconds a page."""
    import pypdfium2

    from ninestory.floors.retrieval.parsing import pdf

    pdf._has_picture = lambda page: False
    count = len(pypdfium2.PdfDocument(path))
    seconds = min(_timed(lambda: parse(path)) for _ in range(2))
    print(f"PDF: {path.name}, {count} pages of text, {count / seconds:.0f} pages per CPU-second.\n")


def _timed(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def measure_ingest(root: Path, venv: Path) -> None:
    """The same files, the same weights, passages of the same token budget; CPU-seconds of everything after loading."""
    if not (venv / "bin/python").exists():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([venv / "bin/pip", "install", "--quiet", *PACKAGES], check=True)
    rows = {}
    with tempfile.TemporaryDirectory() as directory:
        folder, whole = Path(directory) / "files", Path(directory) / "all"
        folder.mkdir()
        whole.mkdir()
        write_sections(root, whole)
        for path in random.Random(0).sample(sorted(whole.iterdir()), INGEST_FILES):
            path.rename(folder / path.name)
        home = Home(Path(directory) / "home")
        for precision in ("int8", "fp32"):
            rows[f"ninestory, {precision}"] = _our_ingest(home, folder, f"{DEFAULT_MODEL}:{precision}")
        model = _sentence_transformers_folder(Path(directory) / "model")
        peer = Path(__file__).with_name("langchain_ingest.py")
        environ = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
        command = [venv / "bin/python", peer, model, folder]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
        told = json.loads(done.stdout.splitlines()[-1])
        rows["langchain, fp32"] = (told["chunks"], told["tokens"], told["seconds"])
        versions = told["versions"]
    print(f"{INGEST_FILES} sections of the manuals in both languages; {versions}.\n")
    print("| | passages | tokens | CPU-seconds | passages/s | against langchain | tokens/s against langchain |")
    print("|---|---|---|---|---|---|---|")
    theirs = rows["langchain, fp32"]
    for name, (chunks, tokens, seconds) in rows.items():
        ratio = chunks / seconds / (theirs[0] / theirs[2])
        by_tokens = tokens / seconds / (theirs[1] / theirs[2])
        print(
            f"| {name} | {chunks} | {tokens} | {seconds:.1f} | {chunks / seconds:.1f} | {ratio:.2f} × | {by_tokens:.2f} × |"
        )
    print()


def _our_ingest(home: Home, folder: Path, model: str) -> tuple[int, int, float]:
    engine = load_engine(resolve(model, home), RuntimeSettings(threads=1))
    embedder = Embedder(engine)
    embedder.query("warm up")
    base, report = create(home, model, model=model), IngestReport()
    begun = cpu_seconds()
    sync_folder(base, folder, report)
    ingest(base, embedder, Silent(), report)
    seconds = cpu_seconds() - begun
    reader = ChunkReader(base)
    reader.refresh()
    tokens = sum(embedder.count_tokens(text) for text in reader.all_rows(["searched"])["searched"].to_pylist())
    engine.close()
    return report.chunks, tokens, seconds


def _sentence_transformers_folder(folder: Path) -> Path:
    """The starter's weights as sentence-transformers reads them: the same numbers in its own names."""
    from safetensors.numpy import save_file

    from ninestory.models.convert.e5_onnx import E5File, e5_tokenizer
    from ninestory.models.convert.sentence_encoder import EMBEDDED_NAMES, LAYER_NAMES
    from ninestory.models.starters import find_starter, starter_file

    file = E5File(starter_file(find_starter("multilingual-e5-small"), Home.default()))
    tensors = {f"embeddings.{theirs}": file.named(ours) for ours, theirs in EMBEDDED_NAMES.items()}
    for layer in range(file.layers):
        for ours, theirs in LAYER_NAMES.items():
            for kind in ("weight", "bias"):
                tensors[f"encoder.layer.{layer}.{theirs}.{kind}"] = file.named(f"{layer}/{ours}.{kind}")
    folder.mkdir()
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, folder / "model.safetensors")
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_size": file.hidden,
        "num_hidden_layers": file.layers,
        "num_attention_heads": file.heads,
        "intermediate_size": file.ffn,
        "vocab_size": file.vocab,
        "max_position_embeddings": file.positions,
        "type_vocab_size": file.types,
        "layer_norm_eps": file.eps,
        "hidden_act": "gelu",
        "pad_token_id": 1,
    }
    tokenizer = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": file.positions,
        **{"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"},
        **{"pad_token": "<pad>", "unk_token": "<unk>"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer.json").write_text(e5_tokenizer(file).to_str(), encoding="utf-8")
    return folder


def measure_processes(root: Path) -> None:
    """The same files ingested whole (parsed, embedded in int8, indexed) as jobs do it; wall time on every processor."""
    from ninestory.core.state import State
    from ninestory.floors.retrieval.jobs import run_ingest
    from ninestory.jobs.runner import context_maker
    from ninestory.runtimes.load import LocalEngines

    print("| processes that embed | threads of each | passages | seconds | passages/s |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as directory:
        folder, whole = Path(directory) / "files", Path(directory) / "all"
        folder.mkdir()
        whole.mkdir()
        write_sections(root, whole)
        for path in random.Random(0).sample(sorted(whole.iterdir()), INGEST_FILES + 60):
            path.rename(folder / path.name)
        home, processors = Home.default(), len(os.sched_getaffinity(0))
        for processes, threads in ((1, 1), (1, processors), (processors, 1)):
            base = create(home, f"benchmark {processes} {threads}")
            settings = RuntimeSettings(threads=threads, ingest_processes=processes)
            begun = time.perf_counter()
            params = {"knowledge_base": base.id, "folders": [str(folder)]}
            with LocalEngines(home, settings) as engines:
                make_context = context_maker(home, Settings(runtime=settings), engines, State(home.state_db))
                told = run_ingest(params, make_context(Silent()))
            seconds = time.perf_counter() - begun
            print(
                f"| {processes} | {threads} | {told['chunks']} | {seconds:.1f} | {told['chunks'] / seconds:.1f} |",
                flush=True,
            )
            remove_base(base)
    print()


def measure_store(root: Path) -> None:
    """Real sentences shuffled into passages, vectors drawn around 400 centres; written and searched by what ships."""
    with tempfile.TemporaryDirectory() as directory:
        home = Home(Path(directory))
        base = create(home, "large", model="drawn")
        base.put(probe=[0.0] * DIMENSIONS)
        begun = time.process_time()
        questions = _write_passages(root, base)
        print(f"{PASSAGES:,} passages written and indexed in {time.process_time() - begun:.0f} CPU-seconds.\n")
        print("| reading process, one core | p50 ms | p99 ms | resident MB | of it anonymous |\n|---|---|---|---|---|")
        print(f"| quiet | {_read(home, base, questions)} |")
        writer = subprocess.Popen([sys.executable, __file__, "write-on", str(base.folder), str(root)])
        time.sleep(2)
        busy = _read(home, base, questions)
        print(f"| while an ingest appends, indexes and publishes on the same core | {busy} |")
        writer.kill()
        writer.wait()
        size = sum(path.stat().st_size for path in base.folder.rglob("*") if path.is_file())
        print(f"\nOn disk {size / 1e6:.0f} MB.\n")


def _read(home: Home, base: KnowledgeBase, questions: list[tuple[str, np.ndarray]]) -> str:
    """What the server's reading process takes for the questions, asked one after another as the gateway asks."""
    command = [sys.executable, "-m", "ninestory.serving.knowledge_process", str(os.getpid()), str(home.root)]
    reader = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert reader.stdin is not None and reader.stdout is not None
    times = []
    for text, vector in questions:
        call = {"op": "search", "base": base.id, "question": text, "vector": vector.tolist(), "options": {}}
        line = json.dumps(call).encode() + b"\n"
        begun = time.perf_counter()
        reader.stdin.write(line)
        reader.stdin.flush()
        answer = reader.stdout.readline()
        times.append(1000 * (time.perf_counter() - begun))
        assert json.loads(answer)["result"]
    status = Path(f"/proc/{reader.pid}/status").read_text(encoding="ascii")
    peak, anonymous = (int(status.split(f"{name}:")[1].split()[0]) / 1024 for name in ("VmHWM", "RssAnon"))
    reader.kill()
    reader.wait()
    times = times[10:]  # the first ones read the index from the disk
    return f"{np.quantile(times, 0.5):.1f} | {np.quantile(times, 0.99):.1f} | {peak:.0f} | {anonymous:.0f}"


def _sentences(root: Path) -> list[str]:
    texts = [parse(path).text for path in pages(root)]
    return [s.strip() for text in texts for s in re.split(r"(?<=[.!?。！？])\s*", text) if 20 < len(s.strip()) < 400]


def _passages(root: Path, seed: int, count: int) -> tuple[list[dict[str, object]], list[str]]:
    """Rows of drawn passages, and the sentence that each was made around."""
    sentences, draw = _sentences(root), random.Random(seed)
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(400, DIMENSIONS))
    vectors = centres[rng.integers(400, size=count)] + 0.9 * rng.normal(size=(count, DIMENSIONS))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    rows: list[dict[str, object]] = []
    firsts = []
    for n in range(count):
        chosen = draw.choices(sentences, k=4)
        text = " ".join(chosen)
        place = {
            "id": f"{seed}-{n}",
            "file_id": f"file-{seed}-{n // 100}",
            "file": f"{n // 100}.txt",
            "ordinal": n % 100,
        }
        where = {"page": None, "start": 0, "end": len(text), "hash": f"{seed}-{n}", "context": ""}
        rows.append({**place, **where, "text": text, "searched": text, "vector": vectors[n]})
        firsts.append(chosen[0])
    return rows, firsts


def _write_passages(root: Path, base: KnowledgeBase) -> list[tuple[str, np.ndarray]]:
    writer, questions = ChunkWriter(base, DIMENSIONS), []
    for part in range(10):
        rows, firsts = _passages(root, part, PASSAGES // 10)
        writer.add(rows)  # type: ignore[arg-type]
        for n in range(0, len(rows), len(rows) * 10 // QUESTIONS):
            noise = np.random.default_rng(n).normal(size=DIMENSIONS) * 0.02
            vector = np.asarray(rows[n]["vector"]) + noise
            questions.append((firsts[n], (vector / np.linalg.norm(vector)).astype(np.float32)))
    writer.publish()
    return questions


def write_on(folder: Path, root: Path) -> None:
    """Go on appending, and publish every 1,000 passages, as an ingest does; niced, as the job process is."""
    os.nice(10)
    writer = ChunkWriter(KnowledgeBase(folder), DIMENSIONS)
    rows, _ = _passages(root, 99, 20_000)
    for first in range(0, len(rows), 100):
        writer.add(rows[first : first + 100])  # type: ignore[arg-type]
        if first % 1000 == 900:
            writer.publish()
        time.sleep(0.25)


class DrawnVectors:
    """An engine of eight drawn numbers a text: everything of an ingest but the embedding, which would take a day."""

    info = EngineInfo(model="drawn", runtime="onnx", architecture="drawn", tasks=["embedding"], context=512, slots=1)

    def run(self, request: Request, cancel: threading.Event, feed: Feed | None = None) -> Iterator[Chunk]:
        assert isinstance(request, EmbeddingRequest)
        vectors = [np.random.default_rng(zlib.crc32(str(text).encode())).normal(size=8) for text in request.inputs]
        yield Embeddings(vectors=[(v / np.linalg.norm(v)).tolist() for v in vectors], prompt_tokens=1)

    def close(self) -> None:
        pass


class StopsAt(Silent):
    """Cancels when so much of the one file is in; looks at what the parsing process holds."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self._share, self.parser_peak = share, 0.0

    def update(self, done: float, total: float | None = None, message: str = "") -> None:
        self.parser_peak = max(self.parser_peak, _peak_of_children())
        if self._share <= done < 1:
            raise Cancelled("enough")


def measure_large(megabytes: Path) -> None:
    """One large text, read and cut part by part."""
    _print_large_head()
    with tempfile.TemporaryDirectory() as directory:
        _write_text(Path(directory) / "large.txt", int(str(megabytes)) << 20)
        subprocess.run([sys.executable, __file__, "large-read", f"{directory}/large.txt"], check=True)


def measure_resumed(megabytes: Path) -> None:
    """One large text ingested, cancelled half-way, resumed by another process and indexed."""
    _print_large_head()
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "files").mkdir()
        _write_text(Path(directory) / "files/large.txt", int(str(megabytes)) << 20)
        for share in ("0.5", "2"):
            subprocess.run([sys.executable, __file__, "large-ingest", directory, share], check=True)


def _print_large_head() -> None:
    print(
        "| | MB of text | passages | seconds | peak MB here | peak MB of the parsing process |\n|---|---|---|---|---|---|"
    )


def _write_text(path: Path, size: int) -> None:
    """Paragraphs of both languages, none of them twice."""
    number = 0
    with path.open("w", encoding="utf-8") as file:
        while file.tell() < size:
            for _ in range(1000):
                number += 1
                file.write(
                    f"Paragraph {number} 第{number}段。It tells of thing {number * 7919 % 65537} and nothing else.\n\n"
                )


def large_read(path: Path) -> None:
    from ninestory.floors.retrieval.chunking.structure import chunk_document
    from ninestory.floors.retrieval.parsing.isolated import ParserProcess

    begun, chunks = time.perf_counter(), 0
    with ParserProcess() as parser:
        following: int | None = 0
        while following is not None:
            document, following = parser.parse_part(path, path.name, following)
            chunks += len(chunk_document(document, lambda text: len(text.encode()) // 3 + 1))
        peak = _peak_of_children()
    _print_large("read and cut", path, chunks, time.perf_counter() - begun, peak)


def large_ingest(directory: Path, share: Path) -> None:
    home = Home(directory / "home")
    base = next((open_by_id(home, base_id) for base_id in base_ids(home)), None) or create(home, "large", model="drawn")
    begun, report, name = time.perf_counter(), IngestReport(), "resumed, and indexed"
    sync_folder(base, directory / "files", report)
    progress = StopsAt(float(str(share)))
    try:
        ingest(base, Embedder(DrawnVectors()), progress, report)  # type: ignore[arg-type]
        assert base.counts()["chunks"] == ChunkWriter(base, 8).rows
    except Cancelled:
        name = f"ingested, cancelled at {share}"
    _print_large(name, directory / "files/large.txt", report.chunks, time.perf_counter() - begun, progress.parser_peak)


def _print_large(name: str, path: Path, chunks: int, seconds: float, parser_peak: float) -> None:
    size = path.stat().st_size >> 20
    print(f"| {name} | {size} | {chunks:,} | {seconds:.0f} | {_peak_of('self'):.0f} | {parser_peak:.0f} |", flush=True)


def _peak_of(process: str) -> float:
    """MB that a process held at most."""
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _peak_of_children() -> float:
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split()
    return max((_peak_of(child) for child in children), default=0.0)


def main() -> None:
    name, *paths = sys.argv[1:]
    if name != "processes":
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[-1]})
    if name in ("parsing", "ingest", "processes", "store", "large", "resumed"):
        print(f"### {name} (`benchmarks/retrieval_speed.py`, {processor_name()})\n", flush=True)
    places = [Path(path) for path in paths]
    {
        "parsing": measure_parsing,
        "ingest": measure_ingest,
        "processes": measure_processes,
        "store": measure_store,
        "large": measure_large,
        "resumed": measure_resumed,
        "large-read": large_read,
        "large-ingest": large_ingest,
        "write-on": write_on,
    }[name](*places)


if __name__ == "__main__":
    main()
