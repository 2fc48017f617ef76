"""The loop of self-instruct: what it keeps, how it resumes, when it gives up."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ninestory.core.errors import Cancelled, ContextOverflow, InvalidRequest
from ninestory.core.progress import Silent
from ninestory.floors.finetuning.self_instruct import (
    TASK_LABELS,
    Bm25Novelty,
    Completion,
    SeedTask,
    SelfInstructSettings,
    encode_prompt,
    parse,
    read_seeds,
    run,
    writer,
)
from ninestory.runtimes.protocol import ChatRequest, Chunk, Finished, Text, Usage

SEEDS = [
    SeedTask(f"Name {n} kinds of {thing}.", "", thing) for n, thing in enumerate(["tree", "bird", "cloud", "stone"])
]
IDEAS = [
    "Describe why rivers bend toward the sea.",
    "Compare two famous poets from one century.",
    "Explain simple engines to an old sailor.",
    "Praise cinnamon in four short lines.",
    "Which knots hold when a rope gets wet?",
    "Count the moons of every giant planet.",
    "Turn each verb into the past tense.",
    "How were stone bridges built by monks?",
    "Suggest breakfast made from forgotten grains.",
    "Give winds their names around the Mediterranean.",
]


def invented(prompt: str, numbers: Iterator[int]) -> Completion:
    """A model that writes two new tasks and repeats a seed."""
    n = next(numbers)
    first, second = IDEAS[2 * n % len(IDEAS)], IDEAS[(2 * n + 1) % len(IDEAS)]
    text = (
        f" {first}\n4. Input:\n<noinput>\n4. Output:\nBecause.\n"
        f"###\n5. Instruction: {second}\n5. Input:\nnow\n5. Output:\nSlowly.\n"
        f"###\n6. Instruction: {SEEDS[0].instruction}\n6. Input:\n<noinput>\n6. Output:\noak\n"
    )
    return Completion(text, "stop", prompt_tokens=len(prompt.split()), completion_tokens=40)


def test_it_keeps_what_is_new_and_counts_the_cost(tmp_path: Path) -> None:
    numbers = itertools.count()
    made = run(SEEDS, lambda prompt: invented(prompt, numbers), tmp_path, SelfInstructSettings(count=6), Silent())
    rows = [json.loads(line) for line in (tmp_path / "tasks.jsonl").read_text().splitlines()]
    assert made.kept == len(rows) >= 6
    assert made.completion_tokens == 40 * made.requests and made.prompt_tokens > 0
    assert made.parsed > made.kept  # the repeated seed was not new
    assert SEEDS[0].instruction not in [row["instruction"] for row in rows]


def test_a_cancelled_run_goes_on_where_it_was(tmp_path: Path) -> None:
    def recorded(folder: Path, stop_after: int | None) -> list[str]:
        prompts: list[str] = []
        watcher, numbers = Silent(), itertools.count()

        def complete(prompt: str) -> Completion:
            prompts.append(prompt)
            watcher.cancelled = len(prompts) == stop_after
            return invented(prompt, numbers)

        if stop_after is None:
            run(SEEDS, complete, folder, SelfInstructSettings(count=8), watcher)
            return prompts
        with pytest.raises(Cancelled):
            run(SEEDS, complete, folder, SelfInstructSettings(count=8), watcher)
        done = json.loads((folder / "yield.json").read_text())["requests"]
        run(
            SEEDS,
            lambda prompt: (prompts.append(prompt), invented(prompt, numbers))[1],
            folder,
            SelfInstructSettings(count=8),
            Silent(),
        )
        assert done == stop_after
        return prompts

    straight, stopped = recorded(tmp_path / "a", None), recorded(tmp_path / "b", 2)
    assert straight == stopped
    assert (tmp_path / "a" / "tasks.jsonl").read_bytes() == (tmp_path / "b" / "tasks.jsonl").read_bytes()


def test_a_model_that_gives_nothing_is_given_up_with_words(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="3 requests in a row gave no new task"):
        run(
            SEEDS,
            lambda _: Completion("I am sorry.", "stop"),
            tmp_path,
            SelfInstructSettings(max_idle_requests=3),
            Silent(),
        )


def test_too_few_seeds(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="2 seed tasks"):
        run(SEEDS[:2], lambda _: None, tmp_path, SelfInstructSettings(), Silent())


def test_chinese_novelty_is_seen() -> None:
    novelty = Bm25Novelty(["写一首关于春天的诗", "把下面的句子翻译成英文", "列出三种常见的水果"])
    assert max(novelty.similarities("写一首关于春天的诗歌")) > 0.7
    assert max(novelty.similarities("解释潮汐是如何形成的")) < 0.3
    assert max(novelty.similarities("写一首关于春天的诗")) == pytest.approx(1.0)


def test_a_model_is_asked_with_less_room_until_it_fits() -> None:
    asked: list[int | None] = []

    def chat(request: ChatRequest) -> Iterator[Chunk]:
        asked.append(request.max_tokens)
        if (request.max_tokens or 0) > 700:
            raise ContextOverflow("too long")
        yield Text(index=0, text="thought", reasoning=True)
        yield Text(index=0, text=" Sing.")
        yield Finished(index=0, reason="length")
        yield Usage(prompt_tokens=7, completion_tokens=2)

    complete = writer(chat, "zh", 1.0)
    assert complete("x") == Completion(" Sing.", "length", 7, 2)
    assert asked == [1024, 819, 655]
    complete("x")
    assert asked[-1] == 655


@pytest.mark.parametrize("language", ["en", "zh"])
def test_our_own_seeds_pass_the_filters_of_form(language: str) -> None:
    seeds = read_seeds(None, language)
    prompt = encode_prompt(seeds[:3], language)
    again = parse(
        Completion(prompt.split(f"1. {TASK_LABELS[language].labels[0]}:", 1)[1], "length"), language, demonstrations=0
    )
    assert len(seeds) >= 16 and again == seeds[:3]


def test_a_broken_seed_is_named(tmp_path: Path) -> None:
    (tmp_path / "seeds.jsonl").write_text('{"instruction": "a", "output": "b"}\n{"instruction": "a"}\n')
    with pytest.raises(InvalidRequest, match="Row 2 of seeds"):
        read_seeds(tmp_path / "seeds.jsonl", "en")
