"""Settings: defaults < user file < project file < environment < flags; later ones win; each value keeps its origin.

A setting is a field of one of the frozen dataclasses below: its type, default and meaning in one place. The same
object feeds CLI, server and page (`ninestory config`). Unknown keys are refused with the nearest known one.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from ninestory.core.errors import InvalidRequest


def _doc(default: Any, text: str, text_zh: str) -> Any:
    """A field with its one-line meaning in both languages (shown by `ninestory config` and on the page)."""
    metadata = {"doc": text, "doc_zh": text_zh}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class ServeSettings:
    """`[serve]`: the gateway."""

    host: str = _doc(
        "127.0.0.1", "address to listen on; anything but loopback needs an API key", "监听地址；非本机地址需要 API 密钥"
    )
    port: int = _doc(8909, "port to listen on", "监听端口")
    api_key: str = _doc("", "key that clients must send; never shown", "客户端须发送的密钥；从不显示")
    api_key_file: str = _doc("", "file that holds the key", "存放密钥的文件")
    allowed_hosts: list[str] = _doc(
        [], "Host names accepted beside loopback and `host`", "除本机与 `host` 外接受的主机名"
    )
    allowed_origins: list[str] = _doc(
        [], "browser origins accepted beside the server's own", "除服务器自身外接受的浏览器来源"
    )
    preload: list[str] = _doc([], "models loaded at start", "启动时加载的模型")
    keep_alive: float = _doc(
        600.0,
        "seconds an idle model stays loaded; 0 unloads at once, -1 never",
        "空闲模型保持加载的秒数；0 立即卸载，-1 永不卸载",
    )
    max_body_mb: float = _doc(
        32.0, "largest request body in MB (uploads: max_upload_mb)", "请求体的最大 MB 数（上传见 max_upload_mb）"
    )
    max_upload_mb: float = _doc(512.0, "largest uploaded file in MB", "上传文件的最大 MB 数")
    media_quota_gb: float = _doc(
        4.0, "GB that stored pictures and sounds may take together", "图片与音频存储的总容量上限（GB）"
    )
    max_queue: int = _doc(64, "requests waiting for one model before 429", "同一模型排队请求的上限，超出返回 429")
    max_n: int = _doc(8, "largest n of one request", "单个请求的 n 上限")
    request_timeout: float = _doc(600.0, "seconds one request may take", "单个请求的最长秒数")
    start_timeout: float = _doc(180.0, "seconds a model may take to load", "加载模型的最长秒数")
    memory_limit_mb: float = _doc(
        0.0,
        "memory that models may take together; 0 = what the machine has free",
        "全部模型可用的内存（MB）；0 为本机空闲内存",
    )


@dataclass(frozen=True)
class RuntimeSettings:
    """`[runtime]`: how models are loaded."""

    runtime: str = _doc(
        "", "llamacpp, torch, onnx or empty (chosen by the files)", "llamacpp、torch、onnx 或留空（按文件选择）"
    )
    context: int = _doc(
        0,
        "tokens of one conversation; 0 = the smaller of the model's own and 4096",
        "单个对话的词元数；0 为模型自身上限与 4096 中较小者",
    )
    slots: int = _doc(4, "requests decoded together", "同时解码的请求数")
    threads: int = _doc(
        0, "threads of one worker; 0 = the processors that are free", "每个工作进程的线程数；0 为空闲处理器数"
    )
    ingest_processes: int = _doc(
        0,
        "processes that embed a large ingest of documents; 0 = one less than the processors that are free",
        "大批文档入库时用于嵌入的进程数；0 为空闲处理器数减一",
    )
    dtype: str = _doc(
        "",
        "float32, bfloat16, float16, int8, int4 (GPU) or empty (on a CPU float32, or bfloat16 where timed faster)",
        "float32、bfloat16、float16、int8、int4（GPU）或留空（CPU 上为 float32，实测更快时为 bfloat16）",
    )
    fast: bool = _doc(
        False,
        "torch on a CPU: the fastest linears, without the promise that a request's bits do not depend on its neighbours",
        "CPU 上的 torch：选用最快的线性层，不再保证结果逐位不受同批请求影响",
    )
    template: str = _doc(
        "",
        "prompt template of chat models, or 'checkpoint'; empty = catalogue, then the checkpoint's",
        "对话模型的提示模板，或 'checkpoint'；留空则先取目录，再取检查点自带的",
    )
    device: str = _doc(
        "", "cpu, cuda, cuda:1 … or empty (the best there is)", "cpu、cuda、cuda:1 … 或留空（自动选最好的）"
    )
    rwkv_strategy: str = _doc(
        "",
        "RWKV only, in place of dtype and device: 'cpu fp32i8 *10 -> cpu fp32', 'cuda fp16', …",
        "仅用于 RWKV，取代 dtype 与 device：'cpu fp32i8 *10 -> cpu fp32'、'cuda fp16' 等",
    )
    prompt_cache_mb: int = _doc(
        128, "memory for prompts kept for reuse (llama.cpp)", "保留提示词以供复用的内存（llama.cpp，MB）"
    )
    allow_http: bool = _doc(
        False, "let a remote model's endpoint be plain http outside this machine", "允许本机以外的远程模型使用明文 http"
    )


@dataclass(frozen=True)
class HubSettings:
    """`[hub]`: where `pull` fetches from. Nothing else uses the network."""

    hf_endpoint: str = _doc(
        "https://huggingface.co",
        "Hugging Face hub or a mirror (HF_ENDPOINT is read too)",
        "Hugging Face 或其镜像（也读取 HF_ENDPOINT）",
    )
    hf_token: str = _doc(
        "", "token for gated models (HF_TOKEN is read too); never shown", "受限模型的令牌（也读取 HF_TOKEN）；从不显示"
    )
    ms_endpoint: str = _doc("https://www.modelscope.cn", "ModelScope hub", "ModelScope 地址")
    timeout: float = _doc(30.0, "seconds without a byte before a download is retried", "多少秒未收到数据即重试下载")


@dataclass(frozen=True)
class Settings:
    """All settings, by section."""

    language: str = _doc("", "en, zh or empty (from the environment)", "en、zh 或留空（取自环境）")
    server: str = _doc(
        "",
        "address of a running server that verbs ask; empty = work in this process",
        "命令所询问的服务器地址；留空则在本进程中运行",
    )
    web_search: str = _doc(
        "",
        "SearXNG-compatible address that document answers may ask when told to; empty = off",
        "文档问答可按要求查询的、兼容 SearXNG 的地址；留空为关闭",
    )
    log_level: str = _doc("info", "debug, info, warning or error", "debug、info、warning 或 error")
    log_json: bool = _doc(False, "one JSON object a log line", "日志每行一个 JSON 对象")
    serve: ServeSettings = field(default_factory=ServeSettings)
    runtime: RuntimeSettings = field(default_factory=RuntimeSettings)
    hub: HubSettings = field(default_factory=HubSettings)


SECRETS = frozenset({"serve.api_key", "hub.hf_token"})
_FOREIGN = {"HF_ENDPOINT": "hub.hf_endpoint", "HF_TOKEN": "hub.hf_token"}  # names other tools taught users
_NOT_SETTINGS = {"NINESTORY_HOME", "NINESTORY_FIXTURES"}


@dataclass(frozen=True)
class Loaded:
    """Effective settings, and the origin of every value by dotted key."""

    settings: Settings
    origins: dict[str, str]


def user_file() -> Path:
    import platformdirs

    return Path(platformdirs.user_config_dir("ninestory", appauthor=False)) / "ninestory.toml"


def load_settings(
    flags: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    project: Path | None = None,
    user: Path | None = None,
) -> Loaded:
    """Merge all layers.

    Args:
        flags: dotted key → value; None values are skipped ("flag not given").
        environ: NINESTORY_SERVE_PORT=… sets serve.port.
        project, user: the two files; default ./ninestory.toml and the user's configuration directory.

    Raises:
        InvalidRequest: an unknown key (with the nearest known one) or a value of the wrong type, with its origin.
    """
    kinds = known_keys()
    values: dict[str, Any] = {}
    origins = dict.fromkeys(kinds, "default")
    for path in (user or user_file(), project or Path("ninestory.toml")):
        if path.is_file():
            for key, value in _flatten(_read_toml(path)).items():
                _set(values, origins, kinds, key, value, str(path))
    for name, value in environ.items():
        if name in _FOREIGN:
            _set(values, origins, kinds, _FOREIGN[name], value, name)
        elif name.startswith("NINESTORY_") and name not in _NOT_SETTINGS:
            _set(values, origins, kinds, _key_of_variable(name, kinds), value, name)
    for key, value in (flags or {}).items():
        if value is not None:
            _set(values, origins, kinds, key, value, "flag")
    return Loaded(_build(values), origins)


def settings_from_dict(tree: Mapping[str, Any]) -> Settings:
    """Rebuild settings that crossed to another process as `dataclasses.asdict`."""
    return _build(_flatten(tree))


def known_keys() -> dict[str, type]:
    """Dotted key → type of every setting."""
    kinds: dict[str, type] = {}
    for name, kind in get_type_hints(Settings).items():
        if dataclasses.is_dataclass(kind):
            kinds |= {f"{name}.{inner}": t for inner, t in get_type_hints(kind).items()}
        else:
            kinds[name] = kind
    return kinds


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(
            f"{path} is not valid TOML: {error}.", hint="Correct that line.", hint_zh="请修正该行。"
        ) from error


def _flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def _key_of_variable(name: str, kinds: Mapping[str, type]) -> str:
    wanted = name.removeprefix("NINESTORY_").lower()
    for key in kinds:
        if key.replace(".", "_") == wanted:
            return key
    return wanted  # unknown: `_set` refuses it by name


def _set(
    values: dict[str, Any], origins: dict[str, str], kinds: Mapping[str, type], key: str, value: Any, origin: str
) -> None:
    if key not in kinds:
        near = difflib.get_close_matches(key, kinds, n=1)
        raise InvalidRequest(
            f"Unknown setting {key!r} in {origin}.",
            hint=f"Did you mean {near[0]!r}?" if near else "'ninestory config' lists every setting.",
            hint_zh=f"是否想写 {near[0]!r}？" if near else "运行 ninestory config 查看全部设置。",
            param=key,
            code="unknown_setting",
        )
    values[key] = _convert(kinds[key], key, value, origin)
    origins[key] = origin


def _convert(kind: type, key: str, value: Any, origin: str) -> Any:
    try:
        if get_origin(kind) is list:
            items = (
                value if isinstance(value, (list, tuple)) else [v.strip() for v in str(value).split(",") if v.strip()]
            )
            return [get_args(kind)[0](v) for v in items]
        if kind is bool:
            return (
                value
                if isinstance(value, bool)
                else {"1": True, "true": True, "0": False, "false": False}[str(value).lower()]
            )
        if kind is str and not isinstance(value, str):
            raise TypeError
        return kind(value)
    except (ValueError, TypeError, KeyError):
        shown = "(secret)" if key in SECRETS else repr(value)
        raise InvalidRequest(
            f"The setting {key} in {origin} is {shown}; expected {getattr(kind, '__name__', kind)}.",
            hint="Run 'ninestory config' to see every setting with its type.",
            hint_zh="运行 ninestory config 查看每个设置及其类型。",
            param=key,
            code="bad_setting",
        ) from None


def _build(values: Mapping[str, Any]) -> Settings:
    groups: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        group, _, name = key.rpartition(".")
        groups.setdefault(group, {})[name] = value
    made = {name: kind(**groups[name]) for name, kind in get_type_hints(Settings).items() if name in groups}
    return Settings(**groups.get("", {}), **made)
