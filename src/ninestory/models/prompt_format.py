"""Selection of a model's prompt format, and rendering of conversations in it.

The choice is never made by a model's name: what the user says holds (`--template`), else what the catalogue says of the
system, else the Jinja template that the checkpoint brings. A model of which none of these speaks has no chat, and the
error says how to choose. Whoever loads the model shows the choice and where it came from.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ninestory.core.errors import Conflict, Damaged, InvalidRequest
from ninestory.models import chat_template
from ninestory.models.catalogue import System, load_catalogue
from ninestory.models.resolved import ResolvedModel
from ninestory.models.templates import Template, find_template, prompt_segments

log = logging.getLogger(__name__)
CHECKPOINT = "checkpoint"
Source = Literal["catalogue", "checkpoint", "--template", "adapter"]


@dataclass(frozen=True)
class PromptFormat:
    """The selected prompt format.

    Attributes:
        id: of the catalogue's template, or "checkpoint".
        source: who chose it.
        stops: strings at which an answer ends, besides the model's own end tokens; one that is a special token's
            spelling ends it as that token.
        stop_ids: token ids that end an answer.
        begin_token: the tokenizer's begin token stands before the prompt, unless the format wrote it.
    """

    id: str
    source: Source
    stops: list[str] = field(default_factory=list)
    stop_ids: list[int] = field(default_factory=list)
    begin_token: bool = True
    template: Template | None = None
    jinja: str = ""

    def segments(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        continue_final: bool = False,
        special_tokens: Iterable[str] = (),
        cancel: threading.Event | None = None,
        **variables: Any,
    ) -> list[tuple[str, bool]]:
        """[(text, may hold special tokens)] of a conversation, ready for the answer.

        Args:
            messages: OpenAI-shaped, with string content.
            continue_final: the last message is the beginning of the answer.
            special_tokens: spellings that only the format may write.
            cancel: ends the rendering of a checkpoint's template when it is set.
            variables: what a checkpoint's template may ask for (bos_token, enable_thinking, …).

        Raises:
            InvalidRequest: a role or message that the format has no place for, by name.
        """
        begun = str(messages[-1]["content"]) if continue_final else ""
        asked = messages[:-1] if continue_final else messages
        if self.template is None:
            turns = [dict(message) for message in asked]
            made = chat_template.render_segments(
                self.jinja, turns, special_tokens=special_tokens, cancel=cancel, **variables
            )
            return [*made, (begun, False)] if begun else made
        if not begun:
            return prompt_segments(self.template, asked)
        return [
            *prompt_segments(self.template, asked, add_generation_prompt=False),
            (self.template.assistant, True),
            (begun, False),
        ]


def choose_format(model: ResolvedModel, explicit: str = "", own: str = "") -> PromptFormat | None:
    """Select the format of a model; None for a model without chat.

    Args:
        explicit: `--template`: a template's id, or "checkpoint".
        own: the checkpoint's Jinja template, "" for none.

    Raises:
        NotFound: no template of that id. InvalidRequest: "checkpoint", and the checkpoint brings none.
        Conflict: the format that the adapter was trained in is not written as it was then.
    """
    if explicit:
        if model.adapters and model.template not in ("", explicit):
            log.warning("asked in %s, and the adapter was trained in %s", explicit, model.template)
        return _named(explicit, "--template", own, model.reference)
    # An adapter's note, or RWKV: a release's vocabulary says how it was trained.
    if model.template not in ("", CHECKPOINT) or model.rendered:
        form = _named(model.template, "adapter" if model.adapters else "checkpoint", own, model.reference)
        return _as_trained(form, model)
    system = _system(model)
    if system and system.template and not (system.template == CHECKPOINT and not own):
        return _named(system.template, "catalogue", own, model.reference)
    return _named(CHECKPOINT, "checkpoint", own, model.reference) if own else None


def sample_prompt(form: PromptFormat) -> str:
    """A short conversation in a format, or the text of a checkpoint's own template, which may write the date of the day.

    Kept with an adapter, and compared when it is served.
    """
    if form.template is None:
        return form.jinja
    turns = [("user", "One?"), ("assistant", "Two."), ("user", "Three?")]
    messages = [{"role": role, "content": content} for role, content in turns]
    return "".join(text for text, _ in form.segments(messages, bos_token="", eos_token=""))


def _as_trained(form: PromptFormat, model: ResolvedModel) -> PromptFormat:
    if model.rendered and sample_prompt(form) != model.rendered:
        raise Conflict(
            f"The prompt format {form.id} is not written as it was when the adapter of {model.reference} was trained.",
            hint="Train it again, or say --template yourself.",
            hint_zh="请重新训练，或自行用 --template 指定。",
            param="template",
            code="template_changed",
        )
    return form


def no_format(model: ResolvedModel) -> InvalidRequest:
    """The error for chatting with a model whose prompt format is unknown."""
    family = [s for s in load_catalogue().values() if s.family == model.architecture and s.template]
    fitting = sorted({s.template for s in family} - {CHECKPOINT})
    offered = f" ({model.architecture} systems use {', '.join(fitting)})" if fitting else ""
    offered_zh = f"（{model.architecture} 系列使用 {'、'.join(fitting)}）" if fitting else ""
    return InvalidRequest(
        f"{model.reference} has no chat template: neither the catalogue nor its files define one.",
        hint=f"Say which with --template{offered}; a base model takes raw text (ninestory chat --raw, /v1/completions).",
        hint_zh=f"请用 --template 指定{offered_zh}；基座模型请用补全（ninestory chat --raw，/v1/completions）。",
        param="template",
        code="no_chat_template",
    )


def own_template(directory: Path) -> str:
    """Read a checkpoint directory's Jinja template; "" if it has none.

    Raises:
        Damaged: a file that holds it cannot be read.
    """
    for name in ("chat_template.jinja", "chat_template.json", "tokenizer_config.json"):
        file = directory / name
        if not file.is_file():
            continue
        try:
            text = file.read_text(encoding="utf-8")
            found = text if name.endswith(".jinja") else json.loads(text).get("chat_template")
        except (ValueError, AttributeError, RecursionError) as error:
            raise Damaged(
                f"{name} cannot be read: {error}.", hint="Download it again.", hint_zh="请重新下载。"
            ) from error
        if isinstance(found, list):  # several by name
            found = next((entry.get("template") for entry in found if entry.get("name") == "default"), None)
        if isinstance(found, str) and found:
            return found
    return ""


def _system(model: ResolvedModel) -> System | None:
    """The model's catalogue entry, else the only entry of its architecture."""
    catalogue = load_catalogue()
    if model.system:
        return catalogue.get(model.system)
    alike = [system for system in catalogue.values() if system.family == model.architecture and system.template]
    return alike[0] if len(alike) == 1 and alike[0].family in _FORMAT_OF_ITS_ARCHITECTURE else None


# Their architecture was published with one chat format in its own code; all others were tuned in many.
_FORMAT_OF_ITS_ARCHITECTURE = ("chatglm", "moss")


def _named(name: str, source: Source, own: str, reference: str) -> PromptFormat:
    if name != CHECKPOINT:
        template = find_template(name)
        return PromptFormat(
            template.id, source, list(template.stops), list(template.stop_ids), template.begin_token, template
        )
    if not own:
        raise InvalidRequest(
            f"{reference} has no chat template of its own.",
            hint="Choose one from the catalogue with --template.",
            hint_zh="请用 --template 指定目录中的模板。",
            param="template",
            code="no_chat_template",
        )
    return PromptFormat(CHECKPOINT, source, jinja=own)
