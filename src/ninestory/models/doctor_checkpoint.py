"""What is wrong with a checkpoint: its files, its vocabulary, the ids of its marks, and the known traps of its family."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ninestory.core.errors import Damaged, NinestoryError, NotFound
from ninestory.models.catalogue import System, load_catalogue
from ninestory.models.convert.checkpoint import Tensor, open_checkpoint
from ninestory.models.finding import Finding, note, ok, problem
from ninestory.models.prompt_format import choose_format, own_template
from ninestory.models.resolve import read_config
from ninestory.models.resolved import ResolvedModel
from ninestory.models.rwkv_release import chat_template, detect_version
from ninestory.models.verify import verify

_EMBEDDINGS = ("embed_tokens.weight", "word_embeddings.weight", "wte.weight", "emb.weight")
_RWKV_ROWS = {65536: "World", 50277: "Pile, Raven"}
# Families that llama.cpp runs, so that a GGUF is the faster road on a processor. ChatGLM-6B has no graph there.
RUN_BY_LLAMA_CPP = ("llama", "bloom", "falcon", "RefinedWeb", "RefinedWebModel", "gptj", "codegen", "moss", "rwkv")
_CHINESE_LLAMA, _CHINESE_ALPACA = 49953, 49954
_EMPTY_ADAPTER = 1024  # bytes; a LoRA of one layer has more


def examine_checkpoint(path: Path) -> list[Finding]:
    """Findings about a weights file or a checkpoint directory."""
    try:
        report = verify(path)
        findings = [ok(f"{report.tensors} tensors, sound", f"{report.tensors} 个张量，完好")]
        findings += [note(text, text, "Nothing to do.", "无需处理。") for text in report.notes]
        config = read_config(path) if (path / "config.json").is_file() else {}
        tensors = {} if path.suffix == ".gguf" else _tensors(path)
    except Damaged as error:
        return [problem(error.message, error.message, error.hint, error.hint_zh), *_forms_by_name(path, {})]
    except NotFound as error:
        findings = [problem(error.message, error.message, error.hint, error.hint_zh)]
        config, tensors = {}, {}
    findings += _forms_by_name(path, config)
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
    """Tokenizer, config and embedding must speak of one vocabulary."""
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
    """Old converters of LLaMA wrote wrong ids of the begin and end tokens; training with them gives gibberish."""
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


# --- forms ------------------------------------------------------------------------------------------------------


def _forms_by_name(path: Path, config: Mapping[str, Any]) -> list[Finding]:
    """What is no model by itself, or no file of today: deltas, encrypted releases, 2023's ggml, empty adapters."""
    found = []
    folder = path if path.is_dir() else path.parent
    if "delta" in f"{path.name} {config.get('_name_or_path', '')}".lower() or "wdiff" in path.name.lower():
        found.append(
            problem(
                "This looks like a delta: the difference to a base model, not a model",
                "这看起来是增量（delta）权重：只是与基座模型的差，不能单独运行",
                "Add it to its base first: ninestory merge.",
                "请先与基座模型合并：ninestory merge。",
            )
        )
    if any(folder.glob("*.enc")):
        found.append(
            problem(
                "The files are encrypted with LLaMA's own weights (.enc)",
                "文件用 LLaMA 原始权重加密（.enc）",
                "Decrypt them with your LLaMA file: ninestory convert decrypt.",
                "请用自有的 LLaMA 文件解密：ninestory convert decrypt。",
            )
        )
    if any(folder.glob("ggml-*.bin")):
        found.append(
            problem(
                "A file of the 2023 ggml formats (ggml-….bin): nothing opens it any more",
                "2023 年的 ggml 格式文件（ggml-….bin）：已无法打开",
                "Take the GGUF form of the same model.",
                "请使用同一模型的 GGUF 版本。",
            )
        )
    adapters = [f for f in (folder / "adapter_model.bin", folder / "adapter_model.safetensors") if f.is_file()]
    if path.is_dir() and any(file.stat().st_size < _EMPTY_ADAPTER for file in adapters):
        found.append(
            problem(
                f"The adapter's file has {adapters[0].stat().st_size} bytes: it is empty",
                f"适配器文件只有 {adapters[0].stat().st_size} 字节：是空的",
                "Its training saved nothing: train again (here saving checks itself).",
                "训练时未保存任何内容：请重新训练（本系统保存时会自检）。",
            )
        )
    return found


def _number_formats(path: Path, config: Mapping[str, Any]) -> list[Finding]:
    """Half precision and pickles: each runs, but not as one might think."""
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
    """Which systems it may be, in which format it is asked, its known traps, and the fast road."""
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
    return found + list(by_words.values()) + ([] if architecture == "rwkv" else _fast_road(architecture))


def _release_of_rwkv(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> list[Finding]:
    """What the names and shapes of its tensors say: version, vocabulary, prompt format, and who can run it."""
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
        task="chat",
        context=0,
        template=template,
    )
    form = choose_format(model, own=own_template(path) if path.is_dir() else "")
    if form is not None:
        return [ok(f"prompt format {form.id} (from the {form.source})", f"提示格式 {form.id}（来自 {form.source}）")]
    fitting = sorted({s.template for s in _systems(architecture) if s.template not in ("", "checkpoint")})
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
    """Whether a pitfall's sign can be seen here: a file name pattern, a key of the config, or key=value."""
    if not sign:
        return False
    if "=" in sign:
        key, _, value = sign.partition("=")
        return key in config and json.dumps(config[key]) == value
    if any(character in sign for character in "*."):
        return path.is_dir() and bool(list(path.glob(sign)))
    return sign in config
