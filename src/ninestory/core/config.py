"""Settings: defaults < user file < project file < environment < flags; the later wins, and each value knows its origin.

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


def _doc(default: Any, text: str) -> Any:
    """A field with its one-line meaning (shown by `ninestory config` and in flags' help)."""
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata={"doc": text})
    return field(default=default, metadata={"doc": text})


@dataclass(frozen=True)
class ServeSettings:
    """`[serve]`: the gateway."""

    host: str = _doc("127.0.0.1", "address to listen on; anything but loopback needs an API key")
    port: int = _doc(8909, "port to listen on")
    api_key: str = _doc("", "key that clients must send; never shown")
    api_key_file: str = _doc("", "file that holds the key")
    allowed_hosts: list[str] = _doc([], "Host names accepted beside loopback and `host`")
    allowed_origins: list[str] = _doc([], "browser origins accepted beside the server's own")
    preload: list[str] = _doc([], "models loaded at start")
    keep_alive: float = _doc(600.0, "seconds an idle model stays loaded; 0 unloads at once, -1 never")
    max_body_mb: float = _doc(32.0, "largest request body in MB (uploads: max_upload_mb)")
    max_upload_mb: float = _doc(512.0, "largest uploaded file in MB")
    max_queue: int = _doc(64, "requests waiting for one model before 429")
    max_n: int = _doc(8, "largest n of one request")
    request_timeout: float = _doc(600.0, "seconds one request may take")
    start_timeout: float = _doc(180.0, "seconds a model may take to load")
    memory_limit_mb: float = _doc(0.0, "memory that models may take together; 0 = what the machine has free")


@dataclass(frozen=True)
class RuntimeSettings:
    """`[runtime]`: how models are loaded."""

    runtime: str = _doc("", "llamacpp, torch, onnx or empty (chosen by the files)")
    context: int = _doc(0, "tokens of one conversation; 0 = the smaller of the model's own and 4096")
    slots: int = _doc(4, "requests decoded together")
    threads: int = _doc(0, "threads of one worker; 0 = the processors that are free")
    dtype: str = _doc("", "float32, bfloat16, float16, int8 or empty (float32 on a CPU)")
    template: str = _doc(
        "", "prompt template of chat models, or 'checkpoint'; empty = catalogue, then the checkpoint's"
    )
    device: str = _doc("", "cpu, cuda, cuda:1 … or empty (the best there is)")
    rwkv_strategy: str = _doc(
        "", "RWKV only, in place of dtype and device: 'cpu fp32i8 *10 -> cpu fp32', 'cuda fp16', …"
    )
    prompt_cache_mb: int = _doc(128, "memory for prompts kept for reuse (llama.cpp)")
    allow_http: bool = _doc(False, "let a remote model's endpoint be plain http outside this machine")


@dataclass(frozen=True)
class HubSettings:
    """`[hub]`: where `pull` fetches from. Nothing else uses the network."""

    hf_endpoint: str = _doc("https://huggingface.co", "Hugging Face hub or a mirror (HF_ENDPOINT is read too)")
    hf_token: str = _doc("", "token for gated models (HF_TOKEN is read too); never shown")
    ms_endpoint: str = _doc("https://www.modelscope.cn", "ModelScope hub")
    timeout: float = _doc(30.0, "seconds without a byte before a download is retried")


@dataclass(frozen=True)
class Settings:
    """Everything that can be set."""

    language: str = _doc("", "en, zh or empty (from the environment)")
    server: str = _doc("", "address of a running server that verbs ask; empty = work in this process")
    log_level: str = _doc("info", "debug, info, warning or error")
    log_json: bool = _doc(False, "one JSON object a log line")
    serve: ServeSettings = field(default_factory=ServeSettings)
    runtime: RuntimeSettings = field(default_factory=RuntimeSettings)
    hub: HubSettings = field(default_factory=HubSettings)


SECRETS = frozenset({"serve.api_key", "hub.hf_token"})
_FOREIGN = {"HF_ENDPOINT": "hub.hf_endpoint", "HF_TOKEN": "hub.hf_token"}  # names other tools taught users
_NOT_SETTINGS = {"NINESTORY_HOME", "NINESTORY_FIXTURES"}


@dataclass(frozen=True)
class Loaded:
    """The effective settings, and for every dotted key where its value came from."""

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
            f"The setting {key} in {origin} is {shown}, which is not a {getattr(kind, '__name__', kind)}.",
            hint="'ninestory config' shows every setting with its type.",
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
