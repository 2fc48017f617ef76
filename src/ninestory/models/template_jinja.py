"""A prompt format of the catalogue as a Jinja chat template, for other programs that are given a tuned model."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from ninestory.models.templates import Template

_SLOT = re.compile(r"\{(content|round|system)\}")


def as_jinja(form: Template) -> str:
    """Jinja template for transformers and llama.cpp with the same prompts; "" if Jinja cannot express the format.

    The template writes BOS if the format has one.
    """
    if form.joins_paragraphs:
        return ""
    slots = {"content": "m['content']", "round": f"({form.first_round} + ns.asked)", "system": "ns.system"}

    def text(value: str) -> str:
        """Jinja expression of a text with its slots."""
        parts = _SLOT.split(value)
        made = [slots[part] if i % 2 else json.dumps(part) for i, part in enumerate(parts) if i % 2 or part]
        return " ~ ".join(made) or "''"

    after = form.user_after_system or form.user
    user = f"({text(after)}) if ns.system and ns.asked == 0 else ({text(form.user)})" if after != form.user else ""
    lines = [
        f"{{%- set ns = namespace(system={json.dumps(form.system)}, asked=0, turns=0) -%}}",
        "{%- for m in messages -%}{%- if m['role'] == 'system' -%}{%- set ns.system = m['content'] -%}{%- else -%}"
        "{%- set ns.turns = ns.turns + 1 -%}{%- endif -%}{%- endfor -%}",
        "{{- bos_token -}}" if form.begin_token else "",
        f"{{%- if ns.system -%}}{{{{- {text(form.system_format)} -}}}}{{%- endif -%}}",
        *(_turn(form, text, f"{{'role': {json.dumps(role)}, 'content': {json.dumps(said)}}}", user)
          for role, said in form.opening),
        "{%- for m in messages -%}",
        *_body(form, text, user),
        "{%- endfor -%}",
        f"{{%- if add_generation_prompt -%}}{{{{- {text(form.generation)} -}}}}{{%- endif -%}}",
    ]  # fmt: skip
    whole = "".join(lines)
    if not form.user_alone:
        return whole
    alone = "ns.turns == 1 and not ns.system and add_generation_prompt"
    first, rest = "".join(lines[:3]), "".join(lines[3:])
    single = f"{{%- for m in messages -%}}{{{{- {text(form.user_alone)} -}}}}{{%- endfor -%}}"
    return f"{first}{{%- if {alone} -%}}{single}{{%- else -%}}{rest}{{%- endif -%}}"


def _turn(form: Template, text: Callable[[str], str], value: str, user: str) -> str:
    """Jinja source of a turn that every prompt starts with."""
    return f"{{%- for m in [{value}] -%}}{''.join(_body(form, text, user))}{{%- endfor -%}}"


def _body(form: Template, text: Callable[[str], str], user: str) -> list[str]:
    answer = f"{text(form.assistant)} ~ m['content'] ~ {text(form.end + form.after)}"
    return [
        f"{{%- if m['role'] == 'user' -%}}{{{{- {user or text(form.user)} -}}}}{{%- set ns.asked = ns.asked + 1 -%}}",
        f"{{%- elif m['role'] == 'assistant' -%}}{{{{- {answer} -}}}}{{%- endif -%}}",
    ]
