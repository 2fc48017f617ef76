"""The Hugging Face hub's API, or a mirror that speaks it."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx

from ninestory.core.config import HubSettings
from ninestory.core.errors import RemoteFailed
from ninestory.models.hub_http import HubFile, Listing, get_json


class HuggingFaceHub:
    """`GET /api/models/REPO/revision/REV?blobs=true` says commit, licence, and the files with sizes and sums."""

    def __init__(self, settings: HubSettings) -> None:
        self._endpoint = settings.hf_endpoint.rstrip("/")
        self.token = settings.hf_token

    def listing(self, client: httpx.Client, repo: str, revision: str | None) -> Listing:
        """The files of `repo` at `revision` (default main), pinned to its commit.

        Raises:
            Unauthorized, Forbidden, NotFound: as the hub says. RemoteFailed: an answer that makes no sense.
        """
        wanted = quote(revision or "main", safe="")
        address = f"{self._endpoint}/api/models/{repo}/revision/{wanted}?blobs=true"
        facts = get_json(client, address, self.token, repo)
        try:
            return Listing(str(facts["sha"]), _licence(facts), [_file(entry) for entry in facts["siblings"]])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RemoteFailed(
                f"The hub's answer about {repo} lacks what it should hold: {error!r}.",
                hint="Check hub.hf_endpoint (ninestory config).",
                hint_zh="请检查 hub.hf_endpoint（ninestory config）。",
            ) from error

    def file_url(self, repo: str, commit: str, path: str) -> str:
        return f"{self._endpoint}/{repo}/resolve/{commit}/{quote(path)}"


def _file(entry: dict[str, Any]) -> HubFile:
    lfs = entry.get("lfs")
    return HubFile(
        path=str(entry["rfilename"]),
        nbytes=int(entry["size"]),
        sha256=str(lfs["sha256"]) if lfs else "",
        git_sha1="" if lfs else str(entry.get("blobId") or ""),
    )


def _licence(facts: dict[str, Any]) -> str:
    card = facts.get("cardData") or {}
    name = card.get("license_name") or card.get("license") or ""
    tags = [tag.removeprefix("license:") for tag in facts.get("tags") or [] if str(tag).startswith("license:")]
    return str(name or (tags[0] if tags else ""))
