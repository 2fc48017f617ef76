"""Diagnosis of a checkpoint: files, vocabulary, special-token ids, and the known pitfalls of its family."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ninestory.core.errors import Damaged, NinestoryError, NotFound
from ninestory.models.catalogue import System, load_catalogue
from ninestory.models.convert.checkpoint import Tensor, open_checkpoint
from ninestory.models.doctor_forms import CONSOLIDATED, forms_of
from ninestory.models.finding import Finding, note, ok, problem
from ninestory.models.prompt_format import choose_format, own_template
from ninestory.models.resolve import read_config
from ninestory.models.resolved import ResolvedModel
from ninestory.models.rwkv_release import chat_template, detect_version
from ninestory.models.templates import load_templates
from ninestory.models.verify import verify

_EMBEDDINGS = ("embed_tokens.weight", "word_embeddings.weight", "wte.weight", "emb.weight")
_RWKV_ROWS = {65536: "World", 50277: "Pile, Raven"}
# Families that llama.cpp runs, so that a GGUF is the faster road on a processor. ChatGLM-6B has no graph there.
RUN_BY_LLAMA_CPP = ("llama", "bloom", "falcon", "RefinedWeb", "RefinedWebModel", "gptj", "codegen", "moss", "rwkv")
_CHINESE_LLAMA, _CHINESE_ALPACA = 49953, 49954


def examine_checkpoint(path: Path) -> list[Finding]:
    """Findings about a weights file or a checkpoint directory."""
    try:
        report = verify(path)
        findings = [ok(f"{report.tensors} tensors, sound", f"{report.tensors} 个张量，完好")]
        findings += [note(text, text, "Nothing to do.", "无需处理。") for text in report.notes]
        config = read_config(path) if (path / "config.json").is_file() else {}
        slices = path.suffix == ".gguf" or (path.is_dir() and any(path.glob(CONSOLIDATED)))
        tensors = {} if slices else _tensors(path)
    except Damaged as error:
        return [problem(error.message, error.message, error.hint, error.hint_zh), *forms_of(path, {})]
    except NotFound as error:
        findings = [problem(error.message, error.message, error.hint, error.hint_zh)]
        config, tensors = {}, {}
    findings += forms_of(path, config)
    architecture = "rwkv" if "blocks.0.ln1.weight" in tensors else str(config.get("model_type", ""))
    if not architecture:
        return findings
    rows = next((tensor.shape[0] for name, tensor in tensors.items() if name.endswith(_EMBEDDINGS)), 0)
    if config:
        findings += _vocabulary(path, config, rows) + _marks(path, config) + _number_formats(path, config)
    if architecture == "rwkv":
        return findings + _release_of_rwkv(path, {name: tensor.shape for name, tensor in tensors.items()})
    return findings + _family(path, architecture, config)


def _tensors(path: Path) -> Mapping[str, Tensor]:
    try:
        return open_checkpoint(path).tensors
    except NotFound:  # a folder of GGUF files
        return {}


# --- vocabulary -------------------------------------------------------------------------------------------------


def _vocabulary(path: Path, config: Mapping[str, Any], rows: int) -> list[Finding]:
    """Check that tokenizer, config and embedding agree on the vocabulary size."""
    from ninestory.tokenizers.load import load_tokenizer

    stated = config.get("vocab_size")
    found = []
    if rows and isinstance(stated, int) and rows != stated:
        found.append(
            problem(
                f"config.json says vocab_size {stated}, the embedding has {rows} rows",
                f"config.json 的 vocab_size 为 {stated}，而嵌入有 {rows} 行",
                "Take config and weights of one release; an extended vocabulary needs the merged weights.",
                "请使用同一版本的配置与权重；扩充过词表的模型需要合并后的权重。",
            )
        )
    try:
        tokens = load_tokenizer(path).vocab_size
    except NotFound:
        cure = "Copy the tokenizer's files of the same release here."
        return [
            *found,
            problem("There is no tokenizer", "缺少分词器文件", cure, "请将同一版本的分词器文件复制到此处。"),
        ]
    except NinestoryError as error:
        return [*found, problem(error.message, error.message, error.hint, error.hint_zh)]
    rows = rows or (stated if isinstance(stated, int) else 0)
    if (rows, tokens) == (_CHINESE_ALPACA, _CHINESE_LLAMA):
        found.append(
            problem(
                f"The weights are a Chinese-Alpaca ({rows} rows), the tokenizer is Chinese-LLaMA's ({tokens})",
                f"权重是 Chinese-Alpaca（{rows} 行），分词器却是 Chinese-LLaMA 的（{tokens}）",
                "Take the tokenizer from the adapter that was merged last.",
                "请使用最后合并的适配器自带的分词器。",
            )
        )
    elif rows and tokens > rows:
        found.append(
            problem(
                f"The tokenizer has ids up to {tokens - 1}, the embedding {rows} rows",
                f"分词器编号最大为 {tokens - 1}，而嵌入只有 {rows} 行",
                "The tokenizer is of another release: take the one beside these weights.",
                "分词器来自其他版本：请使用与权重配套的分词器。",
            )
        )
    return found


def _marks(path: Path, config: Mapping[str, Any]) -> list[Finding]:
    """Check BOS and EOS ids: old LLaMA converters wrote wrong ones, and training with them gives gibberish."""
    if config.get("model_type") != "llama" or not (path / "tokenizer.model").is_file():
        return []
    named = config.get("bos_token_id", 1), config.get("eos_token_id", 2)
    if named == (1, 2):
        return []
    return [
        problem(
            f"config.json says begin token {named[0]} and end token {named[1]}; LLaMA's are 1 and 2",
            f"config.json 的起止词元编号为 {named[0]} 与 {named[1]}；LLaMA 应为 1 与 2",
            "An old converter wrote them: set bos_token_id 1 and eos_token_id 2 in config.json.",
            "由旧转换器写入：请在 config.json 中设 bos_token_id 为 1、eos_token_id 为 2。",
        )
    ]


# --- numbers ------------------------------------------------------------------------------------------------------


def _number_formats(path: Path, config: Mapping[str, Any]) -> list[Finding]:
    """Notes on half precision and pickles, which load but behave unexpectedly."""
    found = []
    if config.get("torch_dtype", config.get("dtype")) in ("float16", "bfloat16"):
        found.append(
            note(
                "The weights are in 16 bit; on a processor they run in 32 bit and take twice their size",
                "权重为 16 位；在 CPU 上以 32 位运行，内存占用为文件的两倍",
                "Ask 'ninestory plan' for the memory, or take a GGUF in 8 or 4 bit.",
                "可用 ninestory plan 查看内存，或改用 8 位、4 位的 GGUF。",
            )
        )
    if not any(path.glob("*.safetensors")) and any(path.glob("*.bin")):
        found.append(
            note(
                "The weights are pickles (.bin)",
                "权重为 pickle 格式（.bin）",
                "They are read without running anything of them; safetensors load faster.",
                "读取时不会执行其中任何代码；safetensors 加载更快。",
            )
        )
    return found


# --- family -----------------------------------------------------------------------------------------------------


def _family(path: Path, architecture: str, config: Mapping[str, Any], template: str = "") -> list[Finding]:
    """Notes on the family: candidate systems, prompt format, known pitfalls, and the fastest runtime."""
    systems = _systems(architecture)
    if not systems:
        return []
    names, titles = ", ".join(s.name for s in systems), "、".join(s.title.zh for s in systems)
    if len(systems) == 1:
        found = [ok(f"belongs to {names}: {systems[0].title.en}", f"属于 {names}：{titles}")]
    else:
        found = [
            ok(f"a {architecture} model, as are {names}", f"{architecture} 系列模型，{titles} 都属于该系列"),
        ]
    found += _prompt_format(path, architecture, template)
    seen = [p for system in systems for p in system.pitfalls if _seen(p.sign, path, config)]
    by_words = {pitfall.problem.en: Finding("note", pitfall.problem, pitfall.cure) for pitfall in seen}
    found += by_words.values()
    unseen = [system.name for system in systems if any(not pitfall.sign for pitfall in system.pitfalls)]
    if unseen:
        found.append(
            note(
                f"More is known to go wrong with {', '.join(unseen)} than files can show",
                f"{'、'.join(unseen)} 还有一些从文件看不出的已知问题",
                f"ninestory show {unseen[0]}",
                f"ninestory show {unseen[0]}",
            )
        )
    return found + ([] if architecture == "rwkv" else _fast_road(architecture))


def _release_of_rwkv(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> list[Finding]:
    """Notes on an RWKV file from tensor names and shapes: version, vocabulary, prompt format, runtimes."""
    version, rows = detect_version(shapes), shapes["emb.weight"][0]
    kind = _RWKV_ROWS.get(rows, "unknown")
    found = [
        ok(f"RWKV-{version} by the names of its tensors", f"由张量名称判断为 RWKV-{version}"),
        ok(f"RWKV vocabulary of {rows} entries: {kind}", f"RWKV 词表 {rows} 项：{kind}"),
        *_family(path, "rwkv", {}, chat_template(rows) if rows in _RWKV_ROWS else ""),
    ]
    return found + (
        _fast_road("rwkv") if version in ("6", "7") else _no_fast_road(f"RWKV-{version}", f" RWKV-{version}")
    )


def _systems(architecture: str) -> list[System]:
    """The catalogue's chat systems that were released in this architecture."""
    return [
        system
        for system in load_catalogue().values()
        if system.floor == 1 and architecture in (system.family, *system.other_families)
    ]


def _prompt_format(path: Path, architecture: str, template: str) -> list[Finding]:
    model = ResolvedModel(
        reference=str(path),
        path=path,
        format="pickle",
        architecture=architecture,
        tasks=("chat",),
        context=0,
        template=template,
    )
    form = choose_format(model, own=own_template(path) if path.is_dir() else "")
    if form is not None:
        return [ok(f"prompt format {form.id} (from the {form.source})", f"提示格式 {form.id}（来自 {form.source}）")]
    systems = _systems(architecture)
    fitting = sorted({s.template for s in systems if s.template not in ("", "checkpoint")})
    fitting = fitting or sorted(t for t in load_templates() if t.startswith(tuple(s.name for s in systems)))
    return [
        note(
            "The files do not say in which prompt format it was trained",
            "文件没有说明训练时使用的提示格式",
            f"Say it with --template ({', '.join(fitting)}).",
            f"请用 --template 指定（{'、'.join(fitting)}）。",
        )
    ]


def _no_fast_road(model: str, model_zh: str) -> list[Finding]:
    return [
        note(
            f"llama.cpp has no {model}: there is no GGUF of it",
            f"llama.cpp 不支持{model_zh}：没有对应的 GGUF",
            "It runs by the torch runtime; int4 and int8 forms save memory.",
            "由 torch 运行时运行；int4、int8 版本可节省内存。",
        )
    ]


def _fast_road(architecture: str) -> list[Finding]:
    if architecture not in RUN_BY_LLAMA_CPP:
        return _no_fast_road(f"{architecture} of this generation", f"这一代 {architecture}")
    return [
        note(
            "On a processor a GGUF of it is the fast road",
            "在 CPU 上，使用其 GGUF 更快",
            "ninestory convert gguf DIR FILE",
            "ninestory convert gguf 目录 文件",
        )
    ]


def _seen(sign: str, path: Path, config: Mapping[str, Any]) -> bool:
    """Whether a pitfall's sign is present: a file name pattern, a config key, or key=value."""
    if not sign:
        return False
    if "=" in sign:
        key, _, value = sign.partition("=")
        return key in config and json.dumps(config[key]) == value
    if any(character in sign for character in "*."):
        return path.is_dir() and bool(list(path.glob(sign)))
    return sign in config
