"""What a model hub offers of a repository: its files with sizes and sums, its commit and its licence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from ninestory.core.config import HubSettings
from ninestory.core.errors import RemoteFailed
from ninestory.models.download import RemoteFile, refused


@dataclass(frozen=True)
class Repository:
    commit: str
    licence: str
    files: list[RemoteFile]


def hugging_face(client: Any, hub: HubSettings, repo: str, revision: str) -> Repository:
    """List a Hugging Face repository at a revision, pinned to its commit."""
    base = hub.hf_endpoint.rstrip("/")
    info = _json(client, f"{base}/api/models/{repo}/revision/{quote(revision, safe='')}?blobs=true", headers(hub))
    files = [
        RemoteFile(
            path=entry["rfilename"],
            url=f"{base}/{repo}/resolve/{info['sha']}/{quote(entry['rfilename'])}",
            nbytes=int(entry.get("size") or 0),
            sha256=(entry.get("lfs") or {}).get("sha256", ""),
        )
        for entry in info["siblings"]
    ]
    licence = (info.get("cardData") or {}).get("license", "")
    return Repository(info["sha"], str(licence), files)


def modelscope(client: Any, hub: HubSettings, repo: str, revision: str) -> Repository:
    """List a ModelScope repository at a revision."""
    base = hub.ms_endpoint.rstrip("/")
    wanted = "master" if revision == "main" else revision
    listing = _json(client, f"{base}/api/v1/models/{repo}/repo/files?Revision={quote(wanted)}&Recursive=true", {})
    entries = [e for e in listing["Data"]["Files"] if e.get("Type") == "blob"]
    files = [
        RemoteFile(
            path=entry["Path"],
            url=f"{base}/api/v1/models/{repo}/repo?Revision={quote(wanted)}&FilePath={quote(entry['Path'])}",
            nbytes=int(entry["Size"]),
            sha256=entry.get("Sha256", ""),
        )
        for entry in entries
    ]
    info = _json(client, f"{base}/api/v1/models/{repo}", {})
    return Repository(wanted, str(info["Data"].get("License") or ""), files)


def headers(hub: HubSettings) -> dict[str, str]:
    return {"Authorization": f"Bearer {hub.hf_token}"} if hub.hf_token else {}


def _json(client: Any, url: str, sent: dict[str, str]) -> Any:
    import httpx

    try:
        response = client.get(url, headers=sent, follow_redirects=True)
    except httpx.TransportError as error:
        raise RemoteFailed(
            f"The hub could not be reached: {type(error).__name__}.",
            hint="Check the network and the proxy, or set HF_ENDPOINT to a mirror.",
            hint_zh="请检查网络与代理，或将 HF_ENDPOINT 设为镜像站。",
        ) from error
    if not response.is_success:
        raise refused(response.status_code, url)
    try:
        return response.json()
    except ValueError as error:
        raise RemoteFailed("The hub's answer is not JSON: is the endpoint right?") from error
