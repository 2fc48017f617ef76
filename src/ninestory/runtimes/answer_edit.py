"""What a prompt format takes off or changes in an answer, as the answer is written."""

from __future__ import annotations

from typing import Protocol


class AnswerEdit(Protocol):
    """Text in, the text to show out; what may still change is held back until `finish`."""

    def push(self, text: str) -> str: ...

    def finish(self) -> str: ...


class WithoutLead:
    """Drops what the format itself puts between "ASSISTANT:" and an answer, should the model write it.

    Left in, it would stand twice in the next prompt, where the format writes it again.
    """

    def __init__(self, lead: str) -> None:
        self._lead, self._held, self._begun = lead, "", False

    def push(self, text: str) -> str:
        if self._begun:
            return text
        self._held += text
        if len(self._held) < len(self._lead) and self._lead.startswith(self._held):
            return ""
        return self.finish()

    def finish(self) -> str:
        self._begun, held, self._held = True, self._held, ""
        return held.removeprefix(self._lead)
