"""`ninestory tune` from outside: a tiny model is tuned, compared, exported; refused where it must be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests import tiny_models

pytestmark = [pytest.mark.slow, pytest.mark.torch]
pytest.importorskip("torch")

from ninestory.cli.finetuning.tune import app  # noqa: E402
from ninestory.core.errors import Conflict, DoesNotFit, InvalidRequest, NinestoryError, Unsupported  # noqa: E402

ROWS = [{"prompt": f"the {word}", "completion": word[::-1]} for word in ("ab", "ba", "tab", "bat", "aab", "bta")] * 4
QUICK = ["train.max_steps=12", "train.learning_rate=1e-2", "data.max_length=32", "evaluate.eval_samples=2",
         "evaluate.max_tokens=4", "train.evaluate_every=4", "train.save_every=5"]  # fmt: skip


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NINESTORY_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    tiny_models.write_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    return tmp_path / "home"


def tune(*arguments: str, sets: list[str] | None = None) -> Any:
    """The verb's JSON; its error is raised."""
    flags = [flag for change in sets or [] for flag in ("--set", change)]
    done = CliRunner().invoke(app, [*arguments, *flags, "--json"], catch_exceptions=True)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def run(name: str, *more: str, method: str = "lora") -> Any:
    flags = ["--model", "./tiny.gguf", "--data", "rows.jsonl", "--method", method, "--name", name]
    return tune("run", *flags, sets=[*QUICK, *more])


def test_a_run_from_data_to_an_exported_model(home: Path) -> None:
    looked = tune("inspect", "--model", "./tiny.gguf", "--data", "rows.jsonl", sets=QUICK)
    assert looked["format"] == "prompt-completion" and looked["rows"] + looked["held_out"] == 24
    assert looked["duplicates"] == 18 and looked["steps"] == 12 and looked["plan"]["total_bytes"] > 0
    assert looked["seconds"] > 0
    assert "".join(text for text, _ in looked["samples"][0]["pieces"]).startswith("<s>")
    assert [learned for _, learned in looked["samples"][0]["pieces"]] == [False, True]

    outcome = run("first")
    assert outcome["tuned_loss"] < outcome["base_loss"] and outcome["verdict"] in ("better", "unclear")
    assert outcome["reference"] == "ft:first" and outcome["steps"] == 12
    folder = home / "runs" / "first"
    adapter = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert adapter["peft_type"] == "LORA" and adapter["base_model_name_or_path"] == "./tiny.gguf"
    note = json.loads((folder / "adapter" / "ninestory.json").read_text())
    assert note["recipe"]["train"]["max_steps"] == 12 and len(note["base_fingerprint"]) == 16
    assert (folder / "loss.png").is_file() and "<svg" in (folder / "report.html").read_text()

    (listed,) = tune("ls")
    assert (listed["name"], listed["step"], listed["alias"]) == ("first", 12, "ft:first")
    assert "perplexity" in tune("report", "first")["markdown"]
    again = tune("resume", "first")
    assert again["tuned_loss"] == outcome["tuned_loss"] and again["steps"] == 12

    tune("export", "first", "--out", "merged")
    from transformers import AutoModelForCausalLM

    _, info = AutoModelForCausalLM.from_pretrained("merged", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    merged = tune("inspect", "--model", "./merged", "--data", "rows.jsonl", sets=QUICK)
    assert merged["rows"] == looked["rows"]
    with pytest.raises(Conflict):
        tune("export", "first", "--out", "merged")


def test_the_merged_model_is_the_tuned_one(home: Path, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    run("first")
    tune("export", "first", "--out", "merged")
    (base,) = (home / "cache" / "float32").iterdir()
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), home / "runs" / "first" / "adapter")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    ids = torch.tensor([[1, 260, 261, 262]])
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, adapted(ids).logits, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(merged(ids).logits, AutoModelForCausalLM.from_pretrained(base)(ids).logits, atol=1e-2)


def test_a_grown_vocabulary_is_trained_saved_served_and_taken_on(home: Path, tmp_path: Path) -> None:
    """Chinese-LLaMA's road: merged vocabulary, grown tables, pre-training, merge, instructions, one GGUF file."""
    from ninestory.library import load
    from ninestory.models.merge.extend import extend_vocabulary
    from ninestory.models.merge.vocabulary import merge_vocabularies
    from tests.e2e.guide_stand_ins import PROMPTS, llama_folder, llama_weights, vocabulary

    facts = json.loads((PROMPTS / "chinese_vocab_merge.json").read_text(encoding="utf-8"))
    rows, letter = vocabulary(PROMPTS / "tiny_llama.model")
    base = llama_folder(tmp_path / "llama", llama_weights(rows, letter))
    merged = tmp_path / "merged.model"
    made = merge_vocabularies(base / "tokenizer.model", PROMPTS / facts["chinese_model"], merged)
    report = extend_vocabulary(base, merged, tmp_path / "grown")
    assert (report.rows, report.vocabulary) == (rows, rows + made.added)
    texts = [{"text": f"今天天气很好，我们学习中文第{n}课。" * 8} for n in range(8)]
    talks = [{"instruction": f"数{n}", "output": "好的。"} for n in range(8)]
    for name, lines in (("text.jsonl", texts), ("talks.jsonl", talks)):
        Path(name).write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    quick = ["train.max_steps=3", "train.batch_size=4", "train.precision=float32", "evaluate.eval_samples=0",
             "train.learning_rate=1e-3", "method.rank=2", "train.gradient_checkpointing=false"]  # fmt: skip
    first = tune(
        "run", "chinese-llama-pretrain", "--model", "./grown", "--data", "text.jsonl", "--name", "pt", sets=quick
    )
    assert first["tuned_loss"] < first["base_loss"]
    adapter = home / "runs" / "pt" / "adapter"
    assert (adapter / "tokenizer.model").read_bytes() == merged.read_bytes()
    with load("ft:pt", context=128, threads=1) as model:
        assert model.complete("今天", temperature=0, max_tokens=2).usage.completion_tokens > 0
    tune("export", "pt", "--out", "chinese-llama")
    second = tune(
        "run", "chinese-alpaca-sft", "--model", "./chinese-llama", "--data", "talks.jsonl", "--name", "sft", sets=quick
    )
    assert second["tuned_loss"] < second["base_loss"]
    written = tune("export", "sft", "--to", "gguf", "--quant", "F32", "--out", "alpaca.gguf")
    assert written["check"]["relative"] < 0.01 and written["check"]["agreement"] == 1.0
    with load("./alpaca.gguf", context=128, threads=1) as model, load("ft:sft", context=128, threads=1) as adapted:
        answers = [m.chat("数3", temperature=0, max_tokens=4).text for m in (model, adapted)]
        assert answers[0] == answers[1] and model.info.template == "checkpoint"


@pytest.mark.parametrize("method", ["full", "freeze", "qlora", "prefix"])
def test_other_methods_run_to_a_report(method: str, home: Path) -> None:
    outcome = run(f"by-{method}", "method.trainable_layers=1", "method.virtual_tokens=4", method=method)
    folder = home / "runs" / f"by-{method}"
    assert (folder / "report.md").is_file()
    if method == "qlora":
        _is_served_on_what_it_was_trained_on(home)
    if method != "prefix":  # twelve steps are too few for it: its random start is no neutral one
        assert outcome["tuned_loss"] < outcome["base_loss"]
    assert (folder / "model" / "model.safetensors").is_file() == (method in ("full", "freeze"))
    if method == "prefix":
        with pytest.raises(Unsupported, match="nothing of it can be merged"):
            tune("export", "by-prefix", "--out", "merged")
    elif method != "full":
        tune("export", f"by-{method}", "--out", "merged")
        assert Path("merged/model.safetensors").is_file()


def _is_served_on_what_it_was_trained_on(home: Path) -> None:
    from ninestory.core.paths import Home
    from ninestory.models.resolve import resolve
    from ninestory.runtimes.torch.load_model import load_model

    found = resolve("ft:by-qlora", Home(home))
    assert found.format == "safetensors" and [a.name for a in found.adapters] == ["by-qlora"]
    assert load_model(found)[1].packed
    shutil.move(home / "cache" / "nf4", home / "cache" / "elsewhere")
    lost = resolve("ft:by-qlora", Home(home))
    assert lost.format == "gguf" and "4-bit copy of this base that is gone" in lost.notes[-1]
    shutil.move(home / "cache" / "elsewhere", home / "cache" / "nf4")


@pytest.mark.parametrize("method", ["full", "qlora"])
def test_preferences_are_learned_by_dpo_and_go_on_after_a_stop(method: str, home: Path) -> None:
    rows = [{"chosen": f"\n\nHuman: {w}\n\nAssistant: ttt", "rejected": f"\n\nHuman: {w}\n\nAssistant: bab"}
            for w in ("ab", "ba", "tab", "bat", "aab", "bta")] * 3  # fmt: skip
    Path("pairs.jsonl").write_text("\n".join(map(json.dumps, [*rows, {"chosen": "a", "rejected": "a"}])))
    flags = ["--model", "./tiny.gguf", "--data", "pairs.jsonl", "--objective", "dpo", "--method", method]
    changes = [*QUICK, "model.template=alpaca-short", "data.max_length=120", "data.on_invalid_row=skip", "train.keep=9"]
    looked = tune("inspect", *flags[:-2], sets=changes)
    assert looked["format"] == "hh-rlhf" and looked["invalid_count"] == 1 and looked["invalid"][0]["line"] == 19
    (chosen, rejected) = (looked["samples"][0][key] for key in ("pieces", "rejected"))
    assert chosen[0] == rejected[0] and "ttt" in chosen[1][0] and "bab" in rejected[1][0]
    outcome = tune("run", *flags, "--name", "prefers", sets=changes)
    assert outcome["base_loss"] == pytest.approx(0.6931, abs=1e-3) and outcome["tuned_loss"] < 0.6
    assert outcome["verdict"] == "better" and outcome["preferred"] == 1.0
    folder = home / "runs" / "prefers"
    last = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()][-2]
    assert last["margin"] > 0 and last["accuracy"] == 1.0
    assert "better answer preferred" in tune("report", "prefers")["markdown"]
    for step in (10, 12):  # as if killed after step 8
        shutil.rmtree(folder / "checkpoints" / f"step-{step:08d}", ignore_errors=True)
    again = tune("resume", "prefers")
    assert again["tuned_loss"] == outcome["tuned_loss"] and again["final_loss"] == outcome["final_loss"]


def test_what_cannot_be_run_is_refused_before_anything_is_loaded(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = ["run", "--model", "./tiny.gguf"]
    with pytest.raises(InvalidRequest, match=r"data\.train is empty"):
        tune(*base)
    from tests.tiny_rwkv import write_release

    write_release(Path("rwkv.pth"), "6")
    with pytest.raises(Unsupported, match="an RWKV, which is run here and not trained"):
        tune("run", "--model", "./rwkv.pth", "--data", "rows.jsonl")
    Path("empty.jsonl").write_text("")
    with pytest.raises(InvalidRequest, match=r"empty.jsonl has no rows"):
        tune(*base, "--data", "empty.jsonl", sets=QUICK)
    Path("wrong.jsonl").write_text('{"a": 1}')
    with pytest.raises(InvalidRequest, match="No data format has the columns a"):
        tune(*base, "--data", "wrong.jsonl", sets=QUICK)
    with pytest.raises(InvalidRequest, match="expects at most 128"):
        tune(*base, "--data", "rows.jsonl", sets=["data.max_length=4096"])
    Path("talk.jsonl").write_text('{"instruction": "a", "output": "b"}')
    with pytest.raises(InvalidRequest, match="no prompt format"):
        tune(*base, "--data", "talk.jsonl", sets=QUICK)
    with Path("rows.jsonl").open("a") as file:
        file.write('\n{"prompt": "x"}\n')
    with pytest.raises(InvalidRequest, match=r"1 of 25 rows cannot be used. rows.jsonl, line 25") as refused:
        tune(*base, "--data", "rows.jsonl", sets=QUICK)
    skip = "--set data.on_invalid_row=skip"
    assert skip in refused.value.hint and skip in refused.value.hint_zh
    looked = CliRunner().invoke(app, ["inspect", *base[1:], "--data", "rows.jsonl", "--set", "data.max_length=32"])
    assert skip in looked.stdout  # what a run will refuse is said before
    skipped = tune(*base, "--data", "rows.jsonl", "--dry-run", *skip.split(), sets=QUICK)
    assert skipped["invalid_count"] == 1 and skipped["invalid"][0]["line"] == 25
    monkeypatch.setattr("ninestory.core.machine.available_bytes", lambda: 1 << 20)
    with pytest.raises(DoesNotFit, match="GB are free") as refused:
        run("large", "data.on_invalid_row=skip")
    assert "Nothing smaller fits either" in refused.value.hint
    assert not (home / "runs" / "large" / "checkpoints").exists()

    changes = [*QUICK, "data.on_invalid_row=skip", "train.max_steps=2"]
    full = tune(*base, "--data", "rows.jsonl", "--method", "full", "--dry-run", sets=changes)["plan"]
    needed = sum(full[f"{part}_bytes"] for part in ("process", "weight", "optimizer", "activation"))
    monkeypatch.setattr("ninestory.core.machine.available_bytes", lambda: needed - 1)
    with pytest.raises(DoesNotFit, match="GB are free") as refused:
        run("large", *changes, method="full")
    assert "This fits: " in refused.value.hint and "--force" in refused.value.hint_zh
    forced = ["run", "--model", "./tiny.gguf", "--data", "rows.jsonl", "--method", "full", "--name", "large", "--force"]
    assert tune(*forced, sets=changes)["steps"] == 2


def test_a_row_longer_than_the_limit_is_cut_and_counted(home: Path) -> None:
    rows = [{"prompt": "t", "completion": "ab" * 60}, {"prompt": "t" * 90, "completion": "a"}]
    Path("long.jsonl").write_text("\n".join(map(json.dumps, rows)))
    looked = tune("inspect", "--model", "./tiny.gguf", "--data", "long.jsonl", sets=QUICK)
    assert looked["cut"] == 1 and looked["invalid_count"] == 1
    assert "nothing to learn is left within 32 tokens" in looked["invalid"][0]["why"]


def test_a_name_belongs_to_one_run_and_its_base(home: Path, tmp_path: Path) -> None:
    run("first")
    with pytest.raises(Conflict, match="another data, train"):
        run("first", "train.seed=5")
    tiny_models.write_gguf(tmp_path / "tiny.gguf", rms_epsilon=1e-3)
    with pytest.raises(Conflict, match="files have changed since"):
        tune("export", "first", "--out", "merged")


def test_new_writes_a_recipe_that_runs(home: Path) -> None:
    done = CliRunner().invoke(app, ["new", "guanaco-qlora", "--model", "./tiny.gguf", "--out", "my.yaml"])
    assert done.exit_code == 0 and "tune run my.yaml" in done.stdout
    assert {"chatglm-6b-p-tuning", "moss-sft"} <= {line.split()[0] for line in _listed()}
    looked = tune("run", "my.yaml", "--data", "rows.jsonl", "--dry-run", sets=["data.format=", "data.max_length=32"])
    assert looked["steps"] == 1875
    with pytest.raises(NinestoryError, match="exists"):
        done = CliRunner().invoke(app, ["new", "--out", "my.yaml"])
        raise done.exception  # type: ignore[misc]


def _listed() -> list[str]:
    return CliRunner().invoke(app, ["new", "--list"]).stdout.splitlines()[1:]


def test_the_tuned_model_is_asked_by_its_alias_in_the_format_it_was_trained_in(home: Path, tmp_path: Path) -> None:
    from ninestory.core.paths import Home
    from ninestory.library import load
    from ninestory.models.resolve import resolve

    Path("talk.jsonl").write_text("\n".join([json.dumps({"instruction": "ab", "output": "tttt"})] * 8))
    flags = ["--model", "./tiny.gguf", "--data", "talk.jsonl", "--name", "talker"]
    changes = ["model.template=alpaca-short", "train.max_steps=40", "train.learning_rate=3e-2", "data.max_length=120"]
    tune("run", *flags, sets=[*changes, "evaluate.eval_samples=0", "method.rank=16"])
    found = resolve("ft:talker", Home(home))
    assert found.format == "gguf" and [(a.name, a.weight) for a in found.adapters] == [("talker", 1.0)]
    with load("ft:talker", context=128, threads=1) as model:
        assert model.info.template == "alpaca-short" and model.info.adapters == ["talker"]
        assert model.chat("ab", temperature=0, max_tokens=3).text.strip().startswith("tt")
    _is_refused_on_other_weights(tmp_path)


def _is_refused_on_other_weights(folder: Path) -> None:
    from ninestory.library import load

    tiny_models.write_gguf(folder / "other.gguf", rms_epsilon=1e-3)
    with pytest.raises(Conflict, match=r"talker was trained on \./tiny\.gguf, and \./other\.gguf"):
        load("./other.gguf+talker=0.5", context=128, threads=1)
    shutil.move(folder / "other.gguf", folder / "tiny.gguf")
    with pytest.raises(Conflict, match="files have changed since"):
        load("ft:talker", context=128, threads=1)


def test_a_wholly_tuned_model_is_asked_in_the_format_it_was_trained_in(home: Path) -> None:
    from ninestory.library import load

    Path("talk.jsonl").write_text("\n".join([json.dumps({"instruction": "ab", "output": "tttt"})] * 8))
    flags = ["--model", "./tiny.gguf", "--data", "talk.jsonl", "--name", "whole", "--method", "full"]
    changes = ["model.template=alpaca-short", "train.max_steps=2", "data.max_length=120", "evaluate.eval_samples=0"]
    tune("run", *flags, sets=changes)
    with load("ft:whole", context=128, threads=1) as model:
        assert model.info.template == "alpaca-short" and model.chat("ab", temperature=0, max_tokens=3)
    note = home / "runs" / "whole" / "model" / "ninestory.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"rendered": "as it was then"}))
    with pytest.raises(Conflict, match="not written as it was"):
        load("ft:whole", context=128, threads=1)


def test_chatglm_by_p_tuning_from_adgen_rows_to_an_answer(home: Path, tmp_path: Path) -> None:
    from ninestory.library import load
    from tests.conformance.conftest import FIXTURES

    folder = tmp_path / "glm"
    folder.mkdir()
    for name in ("config.json", "ice_text.model", "tokenizer_config.json", "model.safetensors"):
        shutil.copyfile(FIXTURES / "chatglm" / name, folder / name)
    rows = [{"content": f"类型#{word}", "summary": f"{word}很好"} for word in ("裤", "衣", "鞋", "帽")] * 3
    Path("adgen.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    flags = ["chatglm-6b-p-tuning", "--model", "./glm", "--data", "adgen.json", "--name", "glm"]
    quick = ["method.virtual_tokens=4", "train.max_steps=8", "data.max_length=48", "evaluate.eval_samples=1"]
    outcome = tune("run", *flags, sets=[*quick, "evaluate.max_tokens=3"])
    adapter = home / "runs" / "glm" / "adapter"
    assert json.loads((adapter / "adapter_config.json").read_text())["pre_seq_len"] == 4
    from safetensors import safe_open

    with safe_open(adapter / "adapter_model.safetensors", "pt") as tensors:
        assert list(tensors.keys()) == ["transformer.prefix_encoder.embedding.weight"]
    assert outcome["steps"] == 8
    with load("ft:glm", context=128, threads=1) as model:
        assert model.info.template == "chatglm-v1" and model.info.runtime == "torch"
        assert model.chat("类型#裤", temperature=0, max_tokens=3) is not None


def test_moss_on_its_own_dialogues(home: Path, tmp_path: Path) -> None:
    from tests.conformance.conftest import FIXTURES

    folder = tmp_path / "moss"
    folder.mkdir()
    for name in ("config.json", "vocab.json", "merges.txt", "model.safetensors"):
        shutil.copyfile(FIXTURES / "moss" / name, folder / name)
    turn = {"Human": "<|Human|>: hi<eoh>\n", "MOSS": "<|MOSS|>: ho<eom>\n"}
    rows = [{"meta_instruction": "m\n", "chat": {"turn_1": turn}}] * 6
    Path("moss.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    quick = ["train.max_steps=6", "train.batch_size=2", "train.learning_rate=1e-2", "evaluate.eval_samples=1"]
    limits = ["data.max_length=64", "train.precision=float32", "evaluate.max_tokens=2"]
    outcome = tune(
        "run", "moss-sft", "--model", "./moss", "--data", "moss.jsonl", "--name", "m", sets=[*quick, *limits]
    )
    assert outcome["tuned_loss"] < outcome["base_loss"] and (home / "runs" / "m" / "model").is_dir()
    assert "**asked**: <|Human|>: hi<eoh>\n- **wanted**: ho" in tune("report", "m")["markdown"]
