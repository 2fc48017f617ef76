"""Chat templates that would run for ever or fill the memory are refused by a typed error, soon, in little memory."""

from __future__ import annotations

import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ninestory.core.errors import Cancelled, InvalidRequest, NinestoryError, Unsupported
from ninestory.models import template_sandbox
from ninestory.models.chat_template import render_segments

MESSAGES = [{"role": "user", "content": "Hello"}]
_DOUBLE = "{%- set ns = namespace(x=X) %}{% for i in range(64) %}{% set ns.x = STEP %}{% endfor %}{{ ns.x }}"


def _doubling(start: str, step: str) -> str:
    return _DOUBLE.replace("X", start, 1).replace("STEP", step)


ENDLESS = {
    "nested ranges": "{% for i in range(100000) %}" * 6 + "x" + "{% endfor %}" * 6,
    "empty nested ranges": "{% for i in range(99999) %}" * 6 + "{% endfor %}" * 6,
    "a condition that never holds": "{% for i in range(99999) %}{% for j in range(99999) if j < 0 %}x{% endfor %}{% endfor %}",
    "recursive macro": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "branching macro": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "recursive block": "{% block a %}{{ self.a() }}{% endblock %}",
    "recursive loop": "{% for x in [[1, 2]] recursive %}{{ loop([[1, 2], [3, 4]]) }}{% endfor %}",
    "mapped ranges": "{% for i in range(99999) %}{{ range(99999) | map('string') | list | length }}{% endfor %}",
}
HUGE = {
    "repeated text": "{{ 'A' * 10**10 }}",
    "repeated text by a number in front": "{{ 10000000000 * 'A' }}",
    "repeated list": "{{ [1] * 10**9 }}",
    "power": "{{ 10 ** (10 ** 10) }}",
    "power of powers": _doubling("2", "ns.x ** 9"),
    "product of products": _doubling("99", "ns.x * ns.x"),
    "doubled text": _doubling("'aa'", "ns.x + ns.x"),
    "joined text": _doubling("'aa'", "ns.x ~ ns.x"),
    "doubled list": _doubling("[1]", "ns.x + ns.x"),
    "list that holds itself twice": _doubling("['aa']", "[ns.x, ns.x]"),
    "tuple that holds itself twice": _doubling("('aa',)", "(ns.x, ns.x)"),
    "table that holds itself twice": _doubling("{}", "{'a': ns.x, 'b': ns.x}"),
    "table by dict()": _doubling("{}", "dict(a=ns.x, b=ns.x)"),
    "written twice as JSON": _doubling("'aa'", "[ns.x, ns.x] | tojson"),
    "replaced text": _doubling("'aa'", "ns.x.replace('a', 'aaaa')"),
    "replaced text by filter": _doubling("'aa'", "ns.x | replace('a', 'aaaa')"),
    "join method": _doubling("'aa'", "ns.x.join([ns.x, ns.x, ns.x])"),
    "join filter": _doubling("'aa'", "[ns.x, ns.x, ns.x] | join(ns.x)"),
    "printf": _doubling("'aa'", "'%s%s%s' % (ns.x, ns.x, ns.x)"),
    "printf by name": _doubling("'aa'", "'%(a)s%(a)s' % {'a': ns.x}"),
    "format": _doubling("'aa'", "'{0}{0}'.format(ns.x)"),
    "format_map": _doubling("'aa'", "'{a}{a}'.format_map({'a': ns.x})"),
    "macro": "{% set ns = namespace(x='aa') %}{% macro f() %}{{ ns.x }}{{ ns.x }}{% endmacro %}"
    "{% for i in range(64) %}{% set ns.x = f() %}{% endfor %}",
    "set block": "{% set ns = namespace(x='aa') %}{% for i in range(64) %}{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}"
    "{% set ns.x = y %}{% endfor %}",
    "namespaces in a ring": "{% set a = namespace() %}{% set a.b = a %}{% set a.c = a %}"
    + _doubling("[a]", "[ns.x, ns.x, a]"),
    "printf width": "{{ '%2000000000d' % 1 }}",
    "printf width from arguments": "{{ '%*d' % (2000000000, 1) }}",
    "printf precision": "{{ '%.2000000000f' % 1 }}",
    "format width": "{{ '{:2000000000}'.format(1) }}",
    "format width from arguments": "{{ '{:{}}'.format(1, 2000000000) }}",
    "format filter": "{{ '%2000000000d' | format(1) }}",
    "indent": "{{ 'a\\nb' | indent(2000000000) }}",
    "indented JSON": "{{ [1] | tojson(indent=2000000000) }}",
    "deep indented JSON": "{% set ns = namespace(x=[1]) %}{% for i in range(300) %}{% set ns.x = [ns.x] %}{% endfor %}"
    "{% for i in range(17) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x | tojson(indent=16) | length }}",
    "separated JSON": "{{ [1, 2] | tojson(separators=('a' * 1000000, 'b')) }}",
    "strftime": "{{ strftime_now('%2000000000Y') }}",
    "rounding": "{{ 10 | round(-1000000000) }}",
    "every slice": "{% set s = 'a' * 1000000 %}{{ [" + "s[1:]," * 3000 + "] | length }}",
    "stripping": "{{ ('a' * 1000000).strip('b' * 1000000 ~ 'c') }}",
    "output": "{% for i in range(99999) %}" + "A" * 1000 + "{% endfor %}",
    "output in a block": "{% set x %}{% for i in range(99999) %}" + "A" * 1000 + "{% endfor %}{% endset %}",
}
ABSENT = {
    "centre": "{{ 'a'.center(2000000000) }}",
    "centre filter": "{{ 'a' | center(2000000000) }}",
    "ljust": "{{ 'a'.ljust(2000000000) }}",
    "zfill": "{{ 'a'.zfill(2000000000) }}",
    "expandtabs": "{{ '\\t'.expandtabs(2000000000) }}",
    "translate": "{{ ('a' * 100000).translate({97: 'b' * 100000}) }}",
    "bytes of a number": "{{ (1).to_bytes(2000000000, 'big') }}",
    "batch": "{{ [1] | batch(2000000000, 0) | list }}",
    "slice filter": "{{ [1] | slice(2000000000) | list }}",
    "lipsum": "{{ lipsum(n=100000000) }}",
    "sum of lists": "{{ range(99999) | map('list') | sum(start=[]) }}",
    "another file": "{% include '/etc/passwd' %}",
    "Python's internals": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "a macro's internals": "{% macro f() %}{% endmacro %}{{ f._environment.globals }}",
}
UNREADABLE = {
    "deep brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "deep negation": "{{ " + "not " * 20000 + "1 }}",
    "deep lists": "{{ " + "[" * 5000 + "]" * 5000 + " }}",
    "long sum": "{{ 1" + "+1" * 20000 + " }}",
    "deep conditions": "{% if 1 %}" * 5000 + "{% endif %}" * 5000,
    "deep loops": "{% for i in range(2) %}" * 30 + "{% endfor %}" * 30,
    "long number": "{{ " + "9" * 100000 + " }}",
    "open brackets": "{" * 100000,
    "open tags": "{%- " * 30000,
    "open comments": "{# " * 40000,
    "open raw": "{% raw %}" * 10000,
    "open strings": "{{ " + "'\\" * 50000,
    "white space": "{{" + " " * 100000,
    "long template": "x" * 200_000,
}


@pytest.mark.parametrize("template", [*ENDLESS.values(), *HUGE.values()], ids=[*ENDLESS, *HUGE])
def test_a_template_without_end_is_refused_by_name(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_sandbox, "MAX_STEPS", 100_000)  # the same limits, reached ten times sooner
    monkeypatch.setattr(template_sandbox, "BASE_CHARACTERS", 1_000_000)
    started = time.monotonic()
    with pytest.raises(Unsupported) as refusal:
        render_segments(template, MESSAGES, special_tokens=[])
    assert refusal.value.code == "template_limit"
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("template", ABSENT.values(), ids=ABSENT)
def test_what_has_no_bound_does_not_exist(template: str) -> None:
    with pytest.raises(NinestoryError):
        render_segments(template, MESSAGES, special_tokens=[])


@pytest.mark.parametrize("template", UNREADABLE.values(), ids=UNREADABLE)
def test_a_template_that_cannot_be_read_is_a_typed_error(template: str) -> None:
    started = time.monotonic()
    try:
        render_segments(template, MESSAGES, special_tokens=[])
    except NinestoryError as error:
        assert error.status == 400
    assert time.monotonic() - started < 3


def test_all_of_them_together_take_little_memory() -> None:
    """In a process of its own that has 512 MB more than it starts with, under the limits that hold in use."""
    code = (
        "import resource, sys\n"
        "import tests.attacks.templates.test_template_limits as t\n"
        "t.limit_memory(512)\n"
        "for name, template in t.HUGE.items():\n"
        "    try:\n"
        "        t.render_segments(template, t.MESSAGES, special_tokens=[])\n"
        "    except t.Unsupported as error:\n"
        "        assert 'memory' not in str(error), (name, error)\n"
        "        continue\n"
        "    sys.exit(name)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]


def limit_memory(megabytes: int) -> None:
    with Path("/proc/self/statm").open() as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + (megabytes << 20),) * 2)


def test_a_rendering_ends_with_its_request() -> None:
    cancel = threading.Event()
    timer = threading.Timer(0.1, cancel.set)
    timer.start()
    started = time.monotonic()
    with pytest.raises(Cancelled):
        render_segments(ENDLESS["empty nested ranges"], MESSAGES, special_tokens=[], cancel=cancel)
    assert time.monotonic() - started < 1


def test_a_rendering_ends_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_sandbox, "MAX_SECONDS", 0.05)
    with pytest.raises(Unsupported, match="seconds"):
        render_segments(ENDLESS["mapped ranges"], MESSAGES, special_tokens=[])


def test_a_long_conversation_is_no_attack() -> None:
    template = "{% set ns = namespace(l=[]) %}{% for m in messages %}{% set ns.l = ns.l + [m] %}{% endfor %}" \
        "{% for m in ns.l %}{{ '<|' ~ m.role ~ '|>' + m.content | trim + '\\n' }}{% endfor %}"  # fmt: skip
    messages = [{"role": "user", "content": "word " * 4000}] * 1000
    made = render_segments(template, messages, special_tokens=["<|user|>"])
    assert sum(len(text) for text, _ in made) > 19_000_000


def test_the_refusal_names_the_template_and_a_cure() -> None:
    with pytest.raises(InvalidRequest, match="rejects this conversation: No more") as refusal:
        render_segments("{{ raise_exception('No more') }}", MESSAGES, special_tokens=[])
    assert refusal.value.hint and refusal.value.hint_zh != refusal.value.hint
