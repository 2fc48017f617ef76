"""Web search as one more source: a SearXNG-compatible endpoint that the user configures. Off without one.

Only the question leaves this machine; what comes back is quoted like any passage, and no page is fetched.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from urllib.parse import urlencode, urlsplit

from ninestory.core.errors import InvalidRequest, RemoteFailed
from ninestory.core.web import fetch
from ninestory.floors.retrieval.hits import Hit

RESULTS = 5
_MAX_BYTES, _SECONDS = 4 << 20, 15.0
_CHARACTERS = 1200
Cosines = Callable[[Sequence[str]], Sequence[float]]


def search_web(endpoint: str, question: str, cosines: Cosines, limit: int = RESULTS) -> list[Hit]:
    """What an endpoint finds, best first by its cosine to the question: title as context, address as file.

    Args:
        endpoint: answers GET endpoint?q=…&format=json with {"results": [{"url", "title", "content"}]}.
        cosines: similarity of each text to the question, by the embedding model of the other passages.

    Raises:
        InvalidRequest: no endpoint is set. RemoteFailed: its answer is not of this form. What `core.web.fetch` raises.
    """
    if not endpoint:
        raise InvalidRequest(
            "Web search has no endpoint.",
            hint="Set web_search to a SearXNG-compatible address, such as http://127.0.0.1:8080/search.",
            hint_zh="请将 web_search 设为兼容 SearXNG 的地址，例如 http://127.0.0.1:8080/search。",
            param="web_search",
        )
    url = f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode({'q': question[:400], 'format': 'json'})}"
    own = frozenset(filter(None, [urlsplit(endpoint).hostname]))  # the operator's own engine may be on this network
    page = fetch(url, max_bytes=_MAX_BYTES, seconds=_SECONDS, private_hosts=own)
    try:
        found = [
            (str(r["url"]), str(r.get("title") or ""), str(r["content"])) for r in json.loads(page.body)["results"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise RemoteFailed(
            f"{urlsplit(endpoint).netloc} does not answer as a SearXNG does ({error!r}).",
            hint="Check the address, and that its JSON format is switched on.",
            hint_zh="请检查地址，并确认已启用 JSON 格式。",
        ) from error
    kept = [(url, title, text[:_CHARACTERS]) for url, title, text in found if text.strip()][:limit]
    values = cosines([f"{title}\n{text}" for _, title, text in kept]) if kept else []
    hits = [
        Hit(
            base="web",
            id=f"web:{place}",
            file_id=url,
            file=url,
            ordinal=place,
            text=text,
            context=title,
            page=None,
            start=0,
            end=len(text),
            score=1 / (place + 1),
            cosine=float(value),
            vector_rank=None,
            text_rank=None,
        )
        for place, ((url, title, text), value) in enumerate(zip(kept, values, strict=True))
    ]
    return sorted(hits, key=lambda hit: -hit.cosine)
