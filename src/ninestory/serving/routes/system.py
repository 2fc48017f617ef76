"""`/ninestory/v1/system`: the machine, the versions, the effective settings without secrets, the last requests."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.metadata
import os
import platform
import shutil
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from fastapi import APIRouter, Query

from ninestory import __version__
from ninestory.core.config import SECRETS, Settings, known_keys
from ninestory.core.machine import available_bytes, gpus, total_bytes
from ninestory.core.process import resident_bytes
from ninestory.runtimes.threads import free_processors
from ninestory.serving.context import GatewayContext

PACKAGES = ("xllamacpp", "onnxruntime", "torch", "transformers", "peft", "diffusers", "lancedb", "fastapi", "pydantic")


def router(context: GatewayContext) -> APIRouter:
    routes = APIRouter(prefix="/ninestory/v1/system", tags=["system"])

    @routes.get("")
    async def system() -> dict[str, Any]:
        """What runs here, on what, with which settings."""
        disk = shutil.disk_usage(context.home.root)
        return {
            "version": __version__,
            "started_at": context.started_at,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "home": str(context.home.root),
            "processor": {"name": processor_name(), "cores": os.cpu_count(), "free_cores": free_processors()},
            "memory": {
                "total_bytes": total_bytes(),
                "available_bytes": available_bytes(),
                "gateway_bytes": resident_bytes(),
            },
            "disk": {"total_bytes": disk.total, "free_bytes": disk.free},
            "gpus": [dataclasses.asdict(gpu) for gpu in await asyncio.to_thread(gpus)],
            "packages": {name: installed_version(name) for name in PACKAGES},
            "settings": effective_settings(context),
        }

    @routes.get("/requests")
    async def requests(limit: Annotated[int, Query(ge=1, le=500)] = 100) -> dict[str, Any]:
        """The last requests, newest first: never a text or a header."""
        entries = [*context.requests][::-1]
        return {"object": "list", "data": entries[:limit], "has_more": len(entries) > limit}

    return routes


def effective_settings(context: GatewayContext) -> list[dict[str, Any]]:
    """Every setting with its value and where it came from; of a secret only whether it is set."""
    rows = []
    for key in known_keys():
        group, _, name = key.rpartition(".")
        owner = getattr(context.settings, group) if group else context.settings
        kind = get_type_hints(Settings)[group] if group else Settings
        meaning = next(field.metadata for field in dataclasses.fields(kind) if field.name == name)
        doc = {"en": meaning["doc"], "zh": meaning["doc_zh"]}
        value = getattr(owner, name)
        if key in SECRETS:
            value = "(set)" if value else ""
        rows.append({"key": key, "value": value, "origin": context.loaded_settings.origins[key], "doc": doc})
    return rows


def processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def installed_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
