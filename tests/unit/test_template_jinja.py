"""The catalogue's prompt formats written as Jinja give the same prompts."""

from __future__ import annotations

import pytest

from ninestory.models import chat_template
from ninestory.models.template_jinja import as_jinja
from ninestory.models.templates import load_templates, render

USER, ANSWER = {"role": "user", "content": "What {x}\nis it?"}, {"role": "assistant", "content": 'It is "so".'}
TALKS = [[USER], [USER, ANSWER, USER], [{"role": "system", "content": "Be kind."}, USER]]


@pytest.mark.parametrize("template_id", sorted(load_templates()))
def test_jinja_gives_the_format_s_own_prompts(template_id: str) -> None:
    form = load_templates()[template_id]
    jinja = as_jinja(form)
    if form.joins_paragraphs:
        assert jinja == ""
        return
    for talk in TALKS if form.system_format else TALKS[:2]:
        made = chat_template.render_segments(jinja, talk, special_tokens=[], bos_token="")
        assert "".join(text for text, _ in made) == render(form, talk)
