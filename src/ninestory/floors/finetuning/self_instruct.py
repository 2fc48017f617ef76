"""Self-instruct: new training tasks from a few seed tasks, by any model, filtered for form and novelty, resumable.

Sources: Stanford Alpaca's generate_instruction.py (English, ROUGE-L) and BELLE's Chinese form of it (BM25). The texts
of the two headers are ours; numbering, labels, parsing and filters are theirs, so their outputs can be read.
"""

from __future__ import annotations

import json
import random
import re
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from ninestory.core.regular_file import read_regular_text

from ...core.errors import ContextOverflow, InvalidRequest
from ...core.paths import atomic_write
from ...core.progress import Progress
from ...evaluation.bm25 import BM25
from ...evaluation.rouge import latin_tokens, mixed_tokens, rouge_l
from ...runtimes.protocol import ChatRequest, Chunk, Finished, Message, Sampling, Text, Usage

DEMONSTRATIONS = 3
TASKS_ASKED = {"en": 20, "zh": 10}
MIN_ANSWER_TOKENS = 100  # tokens; below it there is no room for a task
MAX_SIMILARITY = 0.7  # above it a task is not new


@dataclass(frozen=True)
class SeedTask:
    """One task of the pool; `input` may be empty."""

    instruction: str
    input: str
    output: str


@dataclass(frozen=True)
class Completion:
    """The model's answer. `finish_reason` "length" means that its last task was cut."""

    text: str
    finish_reason: str
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True)
class TaskLabels:
    """The labels of one language. `labels`: of instruction, input and output."""

    labels: tuple[str, str, str]
    no_input: str
    header: str


TASK_LABELS = {
    "en": TaskLabels(
        ("Instruction", "Input", "Output"),
        "<noinput>",
        f"Write {TASKS_ASKED['en']} different tasks that a language model could be given, each with its answer.\n"
        "Vary the verbs, the kinds of task (open questions, classification, rewriting, writing) and the subjects.\n"
        "A text model must be able to do each one: ask for nothing to be seen, heard, drawn or looked up.\n"
        f"Give a task an input only where it needs one, else write {'<noinput>'}. One or two sentences a task, in English.\n"
        "The tasks:\n",
    ),
    "zh": TaskLabels(
        ("指令", "输入", "输出"),
        "<无输入>",
        f"请写出 {TASKS_ASKED['zh']} 个可以交给语言模型的不同任务，并给出每个任务的答案。\n"
        "动词、任务类型（问答、分类、改写、写作等）和主题应各不相同。\n"
        "任务必须仅凭文字即可完成：不要求看图、听音、绘画或上网。\n"
        "只有需要时才给出输入，否则写 <无输入>。每个任务一两句话，使用中文。\n"
        "任务列表：\n",
    ),
}


def encode_prompt(tasks: Sequence[SeedTask], language: str, header: str | None = None) -> str:
    """The header and the demonstrations, numbered, ending where the model has to go on."""
    form = TASK_LABELS[language]
    instruction, given, output = form.labels
    prompt = (form.header if header is None else header) + "\n"
    for number, task in enumerate(tasks, start=1):
        instruction_text = re.sub(r"\s+", " ", task.instruction).strip().rstrip(":")
        prompt += (
            f"###\n{number}. {instruction}: {instruction_text}\n{number}. {given}:\n{task.input or form.no_input}\n"
            f"{number}. {output}:\n{task.output}\n"
        )
    return prompt + f"###\n{len(tasks) + 1}. {instruction}:"


def parse(completion: Completion | None, language: str, demonstrations: int = DEMONSTRATIONS) -> list[SeedTask]:
    """The well-formed tasks of a completion that pass the filters of form, in order."""
    if completion is None:
        return []
    label, first = TASK_LABELS[language].labels[0], demonstrations + 1
    text = completion.text
    if language == "en" or not re.match(rf"\s*{first}\.\s*{label}", text):  # a chat model may repeat the opening
        text = f"{first}. {label}:{text}"
    chunks = text.split("###")
    if completion.finish_reason == "length":
        chunks = chunks[:-1]
    read, keep = (_read_english, _keeps_english) if language == "en" else (_read_chinese, _keeps_chinese)
    tasks = [read(chunk, first + index) for index, chunk in enumerate(chunks)]
    return [task for task in tasks if task is not None and keep(task)]


def _read_english(chunk: str, number: int) -> SeedTask | None:
    parts = re.split(rf"{number}\.\s+(?:Instruction|Input|Output):", chunk)
    if len(parts) != 4:
        return None
    instruction, given, output = (part.strip() for part in parts[1:])
    return SeedTask(instruction, "" if given.lower() == "<noinput>" else given, output)


_CHINESE_PARTS = re.compile(r"指令[:：](.*?)输入[:：](.*?)输出[:：](.*?)(?:指令|\Z)", re.DOTALL)


def _read_chinese(chunk: str, _: int) -> SeedTask | None:
    """Full-width colons count too; the number of the next label is not part of a text."""
    if not (found := _CHINESE_PARTS.search(chunk)):
        return None
    instruction, given, output = (re.sub(r"\d+\.$", "", part.strip()).strip() for part in found.groups())
    instruction = re.sub(r"让\s*GPT\s*模型", "", instruction)
    return SeedTask(instruction, "" if "无输入" in given else given, output)


_ENGLISH_BARRED = re.compile(
    r"\b(images?|graphs?|pictures?|files?|maps?|draw|plot|go to|video|audio|music|flowchart|diagram)\b", re.IGNORECASE
)
_CHINESE_BARRED = (
    *("图像", "图片", "照片", "文件", "图表", "图层", "曲线图", "折线图", "直线图", "柱形图", "饼状图", "链接"),
    *("http", "openai", "chatgpt", "gpt"),
)


def _keeps_english(task: SeedTask) -> bool:
    words, asked = len(task.instruction.split()), task.instruction
    if not 3 < words <= 150 or _ENGLISH_BARRED.search(asked) or asked.startswith("Write a program"):
        return False
    return asked[0] not in string.punctuation and asked[0].isascii()


def _keeps_chinese(task: SeedTask) -> bool:
    asked = task.instruction
    if len(asked) <= 3 or any(word in f"{asked}{task.input}{task.output}".lower() for word in _CHINESE_BARRED):
        return False
    longest = 150 if "示例" in asked or "例子" in asked else 100
    return not task.input or len(asked) < longest


def read_seeds(path: Path | None, language: str) -> list[SeedTask]:
    """Seed tasks of a JSON or JSON-lines file of alpaca rows; None: the ones that come with ninestory.

    Raises:
        InvalidRequest: no such language, or a row without instruction and output, by its number.
    """
    if language not in TASK_LABELS:
        raise InvalidRequest(
            f"language is {language!r}; expected one of {', '.join(TASK_LABELS)}.",
            hint="Take en or zh.",
            hint_zh="请使用 en 或 zh。",
            param="language",
        )
    path = path or Path(__file__).parent / "seeds" / f"{language}.jsonl"
    text = read_regular_text(path)
    tasks = []
    try:
        rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines()]
        for row in rows:
            tasks.append(SeedTask(row["instruction"], row.get("input") or "", row["output"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidRequest(
            f"Row {len(tasks) + 1} of {path.name} is not a task: {error}.",
            hint='Each is {"instruction": …, "input": …, "output": …}.',
            hint_zh='每行应为 {"instruction": …, "input": …, "output": …}。',
            param="seeds",
        ) from error
    return tasks


def writer(
    chat: Callable[[ChatRequest], Iterator[Chunk]], language: str, temperature: float
) -> Callable[[str], Completion]:
    """`complete` for `run`: any engine asked as a chat model, with the originals' limits and stop strings."""
    max_tokens = [{"en": 3072, "zh": 1024}[language]]
    stop = [f"\n{TASKS_ASKED[language]}.", f"{TASKS_ASKED[language]}."]

    def complete(prompt: str) -> Completion:
        while True:
            try:
                return answer(prompt)
            except ContextOverflow:  # as the originals do when they are told to reduce the prompt
                max_tokens[0] = int(max_tokens[0] * 0.8)
                if max_tokens[0] < MIN_ANSWER_TOKENS:
                    raise

    def answer(prompt: str) -> Completion:
        text, reason, usage = "", "stop", Usage(prompt_tokens=0)
        request = ChatRequest(
            messages=[Message(role="user", content=prompt)],
            max_tokens=max_tokens[0],
            stop=stop,
            sampling=Sampling(temperature=temperature, top_p=1.0),
        )
        for chunk in chat(request):
            if isinstance(chunk, Text) and not chunk.reasoning:
                text += chunk.text
            elif isinstance(chunk, Finished):
                reason = chunk.reason
            elif isinstance(chunk, Usage):
                usage = chunk
        return Completion(text, reason, usage.prompt_tokens, usage.completion_tokens)

    return complete


class Novelty(Protocol):
    """Similarity of an instruction to those of the pool."""

    def similarities(self, instruction: str) -> list[float]:
        """One number in 0 … 1 for each instruction of the pool."""

    def add(self, instruction: str) -> None:
        """Take an instruction into the pool."""


class RougeNovelty:
    """ROUGE-L F1 against every instruction of the pool (Alpaca). It is blind to Chinese."""

    def __init__(self, pool: Sequence[str]) -> None:
        self.pool = [latin_tokens(text) for text in pool]

    def similarities(self, instruction: str) -> list[float]:
        tokens = latin_tokens(instruction)
        return [rouge_l(tokens, other).f1 for other in self.pool]

    def add(self, instruction: str) -> None:
        self.pool.append(latin_tokens(instruction))


class Bm25Novelty:
    """BM25 of each pool entry as a share of the instruction's score against itself (BELLE, for Chinese).

    BELLE's own limit, a bare score of 18, holds for one tokenizer and one length of text; a share holds for any.
    """

    def __init__(self, pool: Sequence[str]) -> None:
        self.index = BM25()
        for text in pool:
            self.add(text)

    def similarities(self, instruction: str) -> list[float]:
        tokens = mixed_tokens(instruction)
        most = self.index.ceiling(tokens)
        return [min(score / most, 1.0) if most else 0.0 for score in self.index.scores(tokens)]

    def add(self, instruction: str) -> None:
        self.index.add(mixed_tokens(instruction))


@dataclass
class RequestCounts:
    """Requests and tokens of a run so far; kept beside the data, so that a resumed run continues counting."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    parsed: int = 0
    kept: int = 0


@dataclass(frozen=True)
class SelfInstructSettings:
    """language: en or zh. count: tasks wanted. seed: of the choice of demonstrations."""

    language: str = "en"
    count: int = 100
    seed: int = 0
    max_similarity: float = MAX_SIMILARITY
    max_idle_requests: int = 20  # requests in a row that gave nothing new, after which it stops


def run(
    seeds: Sequence[SeedTask],
    complete: Callable[[str], Completion | None],
    folder: Path,
    settings: SelfInstructSettings,
    progress: Progress,
) -> RequestCounts:
    """Ask `complete` for tasks until `settings.count` were kept; `folder` gets tasks.jsonl and yield.json.

    A run that was stopped goes on where it was: each request's tasks are written before the next is counts, and the
    demonstrations depend on the request's number only.

    Raises:
        InvalidRequest: fewer seeds than demonstrations, or the model gives nothing that passes the filters.
    """
    if len(seeds) < DEMONSTRATIONS:
        raise InvalidRequest(
            f"There are {len(seeds)} seed tasks; expected at least {DEMONSTRATIONS}, which each prompt shows.",
            hint="Write a few more seeds by hand; the originals used 175.",
            hint_zh="请再手写一些种子任务；原版使用 175 个。",
            param="seeds",
        )
    folder.mkdir(parents=True, exist_ok=True)
    tasks, counts = _read(folder)
    pool = [task.instruction for task in (*seeds, *tasks)]
    novelty: Novelty = RougeNovelty(pool) if settings.language == "en" else Bm25Novelty(pool)
    idle = 0
    while counts.kept < settings.count:
        chooser = random.Random(f"{settings.seed}:{counts.requests}")
        completion = complete(encode_prompt(chooser.sample(list(seeds), DEMONSTRATIONS), settings.language))
        parsed_tasks = parse(completion, settings.language)
        new_tasks = [task for task in parsed_tasks if _is_new(task, novelty, settings.max_similarity)]
        counts.requests += 1
        counts.prompt_tokens += completion.prompt_tokens if completion else 0
        counts.completion_tokens += completion.completion_tokens if completion else 0
        counts.parsed += len(parsed_tasks)
        counts.kept += len(new_tasks)
        tasks += new_tasks
        _write(folder, tasks, counts)
        progress.update(min(counts.kept, settings.count), settings.count)
        idle = 0 if new_tasks else idle + 1
        if idle >= settings.max_idle_requests:
            raise InvalidRequest(
                f"{idle} requests in a row gave no new task ({counts.kept} of {settings.count} are kept in {folder})",
                hint="Take a stronger model, a higher temperature, or more and different seeds; then run it again.",
                hint_zh="请换用更强的模型、提高温度，或提供更多不同的种子，然后重新运行。",
            )
    return counts


def _is_new(task: SeedTask, novelty: Novelty, limit: float) -> bool:
    """Whether no instruction of the pool is too similar; a new task joins the pool at once."""
    if max(novelty.similarities(task.instruction), default=0.0) > limit:
        return False
    novelty.add(task.instruction)
    return True


def _read(folder: Path) -> tuple[list[SeedTask], RequestCounts]:
    state = folder / "yield.json"
    if not state.exists():
        return [], RequestCounts()
    lines = (folder / "tasks.jsonl").read_text(encoding="utf-8").splitlines()
    counts = RequestCounts(**json.loads(state.read_text(encoding="utf-8")))
    return [SeedTask(**json.loads(line)) for line in lines[: counts.kept]], counts


def _write(folder: Path, tasks: Sequence[SeedTask], counts: RequestCounts) -> None:
    """The tasks first: a kill between the two leaves tasks that the counts do not know, and they are asked for again."""
    lines = "".join(json.dumps(asdict(task), ensure_ascii=False) + "\n" for task in tasks)
    with atomic_write(folder / "tasks.jsonl", "w") as file:
        file.write(lines)
    with atomic_write(folder / "yield.json", "w") as file:
        json.dump(asdict(counts), file)
