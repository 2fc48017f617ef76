"""The Hugging Face hub's API, or a mirror that speaks it."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from ninestory.core.config import HubSettings
from ninestory.core.errors import RemoteFailed
from ninestory.models.hub_http import HubFile, Listing, get_json

MAX_PAGES = 100


class HuggingFaceHub:
    """`GET /api/models/REPO/revision/REV` says commit and licence, `…/tree/COMMIT` the files in pages."""

    def __init__(self, settings: HubSettings) -> None:
        self._endpoint = settings.hf_endpoint.rstrip("/")
        self.token = settings.hf_token

    def listing(self, client: httpx.Client, repo: str, revision: str | None) -> Listing:
        """The files of `repo` at `revision` (default main), pinned to its commit.

        Raises:
            Unauthorized, Forbidden, NotFound: as the hub says. RemoteFailed: an answer that makes no sense.
        """
        wanted = quote(revision or "main", safe="")
        facts, _ = get_json(client, f"{self._endpoint}/api/models/{repo}/revision/{wanted}", self.token, repo)
        try:
            commit = str(facts["sha"])
            licence = _licence(facts)
            entries = self._tree(client, repo, commit)
            files = [_file(entry) for entry in entries if entry["type"] == "file"]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RemoteFailed(
                f"The hub's answer about {repo} lacks what it should hold: {error!r}.",
                hint="Check hub.hf_endpoint (ninestory config).",
                hint_zh="请检查 hub.hf_endpoint（ninestory config）。",
            ) from error
        return Listing(commit, licence, files)

    def file_url(self, repo: str, commit: str, path: str) -> str:
        return f"{self._endpoint}/{repo}/resolve/{commit}/{quote(path)}"

    def _tree(self, client: httpx.Client, repo: str, commit: str) -> list[dict[str, Any]]:
        base = f"{self._endpoint}/api/models/{repo}/tree/{commit}"
        query, entries = "recursive=true", []
        for _ in range(MAX_PAGES):
            page, response = get_json(client, f"{base}?{query}", self.token, repo)
            entries += page
            following = response.links.get("next", {}).get("url")
            if not following:
                return entries
            query = urlsplit(following).query  # a mirror's link may name the original host: only the cursor counts
        raise RemoteFailed(f"{repo} has more than {MAX_PAGES} pages of files.")


def _file(entry: dict[str, Any]) -> HubFile:
    lfs = entry.get("lfs")
    return HubFile(
        path=str(entry["path"]),
        nbytes=int(entry["size"]),
        sha256=str(lfs["oid"]).removeprefix("sha256:") if lfs else "",
        git_sha1="" if lfs else str(entry.get("oid", "")),
    )


def _licence(facts: dict[str, Any]) -> str:
    card = facts.get("cardData") or {}
    name = card.get("license_name") or card.get("license") or ""
    tags = [tag.removeprefix("license:") for tag in facts.get("tags") or [] if str(tag).startswith("license:")]
    return str(name or (tags[0] if tags else ""))
