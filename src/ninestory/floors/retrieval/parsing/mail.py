"""Mail: the subject as heading, who wrote to whom and when, the text; attachments are named, not read."""

from __future__ import annotations

import email
import email.policy
from pathlib import Path
from typing import Any

from ninestory.core.errors import Damaged
from ninestory.floors.retrieval.document import Document, DocumentBuilder
from ninestory.floors.retrieval.parsing.encoding import decode
from ninestory.floors.retrieval.parsing.html import add_html
from ninestory.floors.retrieval.parsing.text import add_paragraphs


def parse(path: Path) -> Document:
    message = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
    if not message.keys():
        raise Damaged("It is no mail: there are no headers.", code="damaged_mail")
    builder = DocumentBuilder()
    builder.add(str(message.get("Subject", "")), "heading", level=1)
    builder.add("\n".join(f"{name}: {message[name]}" for name in ("From", "To", "Cc", "Date") if message[name]))
    body = message.get_body(preferencelist=("plain", "html"))
    if body is not None:
        text = _text(body)
        if body.get_content_type() == "text/html":
            add_html(builder, text)
        else:
            add_paragraphs(builder, text)
    names = [part.get_filename() for part in message.iter_attachments()]
    if names:
        builder.notes.append("attachments not read: " + ", ".join(str(name) for name in names))
    return builder.build()


def _text(body: Any) -> str:
    try:
        return str(body.get_content())
    except (LookupError, UnicodeDecodeError):  # a charset nobody knows, or one that does not hold
        payload = body.get_payload(decode=True)
        return decode(payload if isinstance(payload, bytes) else b"")[0]
