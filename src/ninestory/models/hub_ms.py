"""ModelScope's API."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import httpx

from ninestory.core.config import HubSettings
from ninestory.core.errors import NotFound, RemoteFailed
from ninestory.models.hub_http import HubFile, Listing, get_json

DEFAULT_REVISION = "master"


class ModelScopeHub:
    """`GET /api/v1/models/REPO` says the licence, `…/repo/files` the files; each file names its own commit.

    A repository has no one commit in that answer, so files are fetched at the revision asked for and pinned by their
    sha256, which ModelScope states for every file.
    """

    token = ""  # only public models: there is no setting for a ModelScope token

    def __init__(self, settings: HubSettings) -> None:
        self._endpoint = settings.ms_endpoint.rstrip("/")

    def listing(self, client: httpx.Client, repo: str, revision: str | None) -> Listing:
        """The files of `repo` at `revision` (default master).

        Raises:
            NotFound: no such model or revision. RemoteFailed: an answer that makes no sense.
        """
        wanted = revision or DEFAULT_REVISION
        facts = self._ask(client, repo, "")
        query = urlencode({"Revision": wanted, "Recursive": "true"})
        answer = self._ask(client, repo, f"/repo/files?{query}")
        try:
            files = [
                HubFile(path=str(f["Path"]), nbytes=int(f["Size"]), sha256=str(f.get("Sha256") or ""))
                for f in answer["Files"]
                if f["Type"] != "tree"
            ]
            licence = str(facts.get("License") or "")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RemoteFailed(
                f"ModelScope's answer about {repo} lacks what it should hold: {error!r}.",
                hint="Check hub.ms_endpoint (ninestory config).",
                hint_zh="请检查 hub.ms_endpoint（ninestory config）。",
            ) from error
        return Listing(wanted, licence, files)

    def file_url(self, repo: str, commit: str, path: str) -> str:
        return f"{self._endpoint}/api/v1/models/{repo}/repo?" + urlencode({"Revision": commit, "FilePath": path})

    def _ask(self, client: httpx.Client, repo: str, rest: str) -> dict[str, Any]:
        """The `Data` of an answer; a refusal may come as status 200 with another `Code` inside."""
        answer = get_json(client, f"{self._endpoint}/api/v1/models/{repo}{rest}", self.token, repo)
        if isinstance(answer, dict) and answer.get("Code") == 200 and isinstance(answer.get("Data"), dict):
            data: dict[str, Any] = answer["Data"]
            return data
        said = answer.get("Message") if isinstance(answer, dict) else None
        raise NotFound(
            f"ModelScope refuses {repo}: {said or 'no reason given'}.",
            hint="Check the spelling (ORG/NAME) and the revision after '@'.",
            hint_zh="请检查拼写（组织/名称）以及 '@' 之后的版本。",
            param="model",
        )
