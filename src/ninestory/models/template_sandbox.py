"""A Jinja sandbox that bounds the time and memory of an untrusted chat template.

A template is data from a downloaded file, yet Jinja is a language: nested loops, recursive macros, `'A' * 10**10` and
lists that hold each other twice grow without end. Jinja's own sandbox keeps a template from Python's internals and
bounds nothing else. Here every loop iteration, call, operator, filter, test and subscript costs one step, every value
that is made costs its size, and each step looks at the clock and at the request's cancel event. What could be large
is refused before it is computed; filters and methods whose cost cannot be told beforehand do not exist.

The tree is rewritten before it is compiled, because Jinja offers no hook for loops, `~`, literals, slices,
comparisons and output. It costs some tens of microseconds a rendering; a child process would cost a start and a
round trip, and its memory could not be limited on every system.
"""

from __future__ import annotations

import itertools
import json
import re
import string
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from datetime import datetime
from functools import lru_cache
from types import BuiltinMethodType
from typing import Any, TypeVar

from jinja2 import Template, nodes, pass_context
from jinja2.defaults import DEFAULT_FILTERS
from jinja2.ext import loopcontrols
from jinja2.filters import make_attrgetter
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from ninestory.core.errors import Cancelled

MAX_TEMPLATE_CHARACTERS = 64_000  # the longest that are published have some 30,000
MAX_STEPS = 1_000_000
MAX_SECONDS = 5.0
# Characters that one rendering may make: a fixed part, and a multiple of what the request brought.
BASE_CHARACTERS, CHARACTERS_PER_INPUT = 8_000_000, 16
_ELEMENT_CHARACTERS = 8  # what an element of a list costs, as characters
_MAX_INTEGER_BITS = 4096
_MAX_STRIPPED_SET = 256  # characters in the argument of strip(): the search is quadratic
_MAX_INDENT = 16

# Results that are no larger than the string itself, or whose size `_check_method` bounds.
_STRING_METHODS = {
    "capitalize", "casefold", "count", "endswith", "find", "format", "format_map", "index", "isalnum", "isalpha",
    "isascii", "isdecimal", "isdigit", "isidentifier", "islower", "isnumeric", "isprintable", "isspace", "istitle",
    "isupper", "join", "lower", "lstrip", "partition", "removeprefix", "removesuffix", "replace", "rfind", "rindex",
    "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "swapcase", "title", "upper",
}  # fmt: skip
_CONTAINER_METHODS = {"copy", "count", "get", "index", "items", "keys", "values"}
_FILTERS = {
    "abs", "attr", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "format",
    "groupby", "indent", "int", "items", "last", "length", "list", "lower", "map", "max", "min", "reject",
    "rejectattr", "replace", "reverse", "round", "safe", "select", "selectattr", "sort", "string", "title", "trim",
    "truncate", "unique", "upper",
}  # fmt: skip
_PRINTF_WIDTH = re.compile(r"%(?:\([^)]*\))?[#0\- +]*(?:\*|\d{4}|\d*\.(?:\*|\d{4}))")
_STRFTIME_WIDTH = re.compile(r"%[^A-Za-z%]*\d{3}")
Value = TypeVar("Value")
_SEQUENCES: tuple[type[Iterable[Any]], ...] = (list, tuple, type({}.keys()), type({}.values()), type({}.items()))


class TemplateLimit(Exception):
    """A template exceeds the limits of a rendering."""


class Budget:
    """Remaining steps, characters and seconds of one rendering.

    Args:
        variables: what the template is given; its size raises the limit of characters.
        cancel: set when nobody waits for the rendering any more.

    Raises:
        TemplateLimit: from every method, when something is used up. Cancelled: from `step`.
    """

    def __init__(self, variables: Mapping[str, Any], cancel: threading.Event | None = None) -> None:
        self._steps, self._cancel = MAX_STEPS, cancel
        self._end = time.monotonic() + MAX_SECONDS
        self._weights: dict[int, tuple[Any, int]] = {}  # by id; the value is kept so that its id is not given again
        self.largest = BASE_CHARACTERS
        self.largest += CHARACTERS_PER_INPUT * sum(self._weigh(value) for value in variables.values())
        self._characters = self.largest

    def step(self) -> None:
        self._steps -= 1
        if self._steps < 0:
            raise TemplateLimit(f"it takes more than {MAX_STEPS:,} steps")
        if time.monotonic() > self._end:
            raise TemplateLimit(f"it takes more than {MAX_SECONDS:g} seconds")
        if self._cancel is not None and self._cancel.is_set():
            raise Cancelled("The request was cancelled.")

    def allocate(self, characters: int) -> None:
        self._characters -= characters
        if self._characters < 0:
            raise TemplateLimit(f"it writes more than {self.largest:,} characters")

    def check(self, characters: int) -> None:
        """Raise `TemplateLimit` if a value of this size would exceed the budget."""
        if characters > self._characters:
            raise TemplateLimit(f"it writes more than {self.largest:,} characters")

    def account(self, value: Value) -> Value:
        """Charge the budget for a new value."""
        if isinstance(value, str):
            self.allocate(len(value))
        elif isinstance(value, (list, tuple, dict)):
            self.allocate(_ELEMENT_CHARACTERS * len(value))
            self.check_weight(value)
        return value

    def check_weight(self, value: Any) -> int:
        """The size of a value written out, all references followed.

        A list that holds another twice doubles with every level, so this is bounded apart from what was allocated.
        """
        weight = self._weigh(value)
        if weight > self.largest:
            raise TemplateLimit(f"it builds a value of more than {self.largest:,} characters")
        return weight

    def _weigh(self, value: Any) -> int:
        parts: Iterable[Any]
        if type(value) is str or isinstance(value, str):  # the first is far quicker
            return len(value) + 1
        if isinstance(value, dict):
            parts = itertools.chain.from_iterable(value.items())
        elif isinstance(value, _SEQUENCES):
            parts = iter(value)
        else:
            return 1
        known = self._weights.get(id(value))
        if known is None:
            known = self._weights[id(value)] = (value, 1 + sum(map(self._weigh, parts)))
        return known[1]


_current: ContextVar[Budget] = ContextVar("budget of the rendering")


def render(template: str, variables: Mapping[str, Any], cancel: threading.Event | None = None) -> str:
    """Render a chat template with JSON-like variables.

    Raises:
        TemplateLimit: the template is longer, or takes more steps, time or memory, than a rendering may.
        Cancelled: `cancel` was set.
        jinja2.TemplateError and Python's own errors: the template is wrong, or refuses the conversation.
    """
    if len(template) > MAX_TEMPLATE_CHARACTERS:
        raise TemplateLimit(f"it has {len(template):,} characters; expected at most {MAX_TEMPLATE_CHARACTERS:,}")
    budget = Budget(variables, cancel)
    token = _current.set(budget)
    try:
        compiled = _compile(template)
        pieces = []
        for piece in compiled.root_render_func(compiled.new_context(dict(variables))):
            budget.allocate(len(piece))
            pieces.append(piece)
        return "".join(pieces)
    except RecursionError as error:
        raise TemplateLimit("it calls itself too deeply") from error
    except MemoryError as error:
        raise TemplateLimit("it takes more memory than there is") from error
    finally:
        _current.reset(token)


@lru_cache(maxsize=16)
def _compile(template: str) -> Template:
    environment = _environment()
    tree = _Metered().visit(environment.parse(template))
    return Template.from_code(environment, environment.compile(tree), dict(environment.globals))


@lru_cache(maxsize=1)
def _environment() -> ChatTemplateEnvironment:
    return ChatTemplateEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])


class _Metered(NodeTransformer):
    """Wrap what Jinja compiles to bare Python: loops, literals, `~`, slices, comparisons and output.

    The names of the filters hold a "!", so that no template can spell or replace them.
    """

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_filtered("step!", nodes.Const(None))))
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [n if isinstance(n, nodes.TemplateData) else _filtered("text!", n) for n in node.nodes]
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered("concatenate!", nodes.Tuple(node.nodes, "load"))

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        return _filtered("step!", node)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _filtered("account!", node) if isinstance(node.arg, nodes.Slice) else node

    def visit_List(self, node: nodes.List) -> nodes.Node:
        self.generic_visit(node)
        return _filtered("account!", node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        return _filtered("account!", node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _filtered("account!", node) if node.ctx == "load" else node


def _filtered(name: str, value: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(value, name, [], [], None, None, lineno=value.lineno or 1)


class _Namespace(Namespace):
    """A namespace, which never prints its content because namespaces can reference one another in a cycle."""

    def __repr__(self) -> str:
        return "<namespace>"


class ChatTemplateEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's immutable sandbox with a budget, the names of transformers' chat templates, and nothing unbounded."""

    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "**", "%"))

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        del self.globals["lipsum"]
        self.globals |= {"namespace": _Namespace, "raise_exception": _raise, "strftime_now": _strftime_now}
        checks: dict[str, Callable[..., None]] = {
            "format": _check_printf, "indent": _check_indent, "replace": _check_replace_filter, "round": _check_round,
            "trim": _check_trim, "string": _check_text, "escape": _check_text, "e": _check_text,
        }  # fmt: skip
        originals: dict[str, Callable[..., Any]] = dict(DEFAULT_FILTERS)
        self.filters = {name: _metered(originals[name], checks.get(name)) for name in _FILTERS}
        self.filters |= {
            "join": pass_context(_join),
            "tojson": _metered(_to_json),
            "sum": _metered(_sum),
            "step!": _metered(lambda value: value),
            "text!": pass_context(_text),
            "account!": _metered(lambda value: value),
            "concatenate!": _metered(_concatenate),
        }
        self.tests = {name: _metered(function) for name, function in self.tests.items()}

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if not super().is_safe_attribute(obj, attr, value):
            return False
        if isinstance(obj, str):
            return attr in _STRING_METHODS
        if isinstance(obj, (dict, list, tuple)):
            return attr in _CONTAINER_METHODS
        return not isinstance(obj, (int, float, complex, bytes, range, type, Macro, Context))

    def getitem(self, obj: Any, argument: Any) -> Any:
        _current.get().step()
        return super().getitem(obj, argument)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        budget = _current.get()
        budget.step()
        if isinstance(obj, BuiltinMethodType) and isinstance(obj.__self__, str):
            args = _check_method(budget, obj.__self__, obj.__name__, args)
        return budget.account(super().call(context, obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        budget = _current.get()
        budget.step()
        if operator == "*":
            _check_product(budget, left, right)
        elif operator == "**":
            _check_power(left, right)
        elif operator == "%" and isinstance(left, str):
            _check_printf(budget, left, right)
        return budget.account(super().call_binop(context, operator, left, right))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        pattern = str(value.__self__)

        def limited(*args: Any, **kwargs: Any) -> str:
            _check_format(_current.get(), pattern, args, kwargs)
            return wrapped(*args, **kwargs)

        return limited

    def concat(self, pieces: list[str]) -> str:  # type: ignore[override]
        """Join the output of a macro or block."""
        budget = _current.get()
        budget.check(sum(map(len, pieces)))
        return budget.account("".join(pieces))


def _metered(function: Any, check: Callable[..., None] | None = None) -> Callable[..., Any]:
    """A filter or test that costs a step and the size of its result.

    Taking the context keeps Jinja's compiler from computing it beforehand, outside of any budget.
    """
    wants = {"context": lambda c: (c,), "eval_context": lambda c: (c.eval_ctx,), "environment": lambda c: (c.environment,)}  # fmt: skip
    mark = getattr(function, "jinja_pass_arg", None)
    first: Callable[[Context], tuple[Any, ...]] = wants[mark.name] if mark else lambda c: ()

    def metered(context: Context, value: Any, /, *args: Any, **kwargs: Any) -> Any:
        budget = _current.get()
        budget.step()
        if check is not None:
            check(budget, value, *args, **kwargs)
        return budget.account(function(*first(context), value, *args, **kwargs))

    return pass_context(metered)


# --- filters and functions of our own ---------------------------------------------------------------------------


def _text(context: Context, value: Any) -> str:
    """Text of `{{ value }}`; it is charged when the output is collected."""
    _current.get().step()
    return value if type(value) is str else _written(_current.get(), value)


def _written(budget: Budget, value: Any) -> str:
    if isinstance(value, str):
        return str(value)
    budget.check(budget.check_weight(value))
    return str(value)


def _concatenate(values: tuple[Any, ...]) -> str:
    budget = _current.get()
    texts = [_written(budget, value) for value in values]
    budget.check(sum(map(len, texts)))
    return "".join(texts)


def _join(context: Context, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    budget = _current.get()
    budget.step()
    items = value if attribute is None else map(make_attrgetter(context.environment, attribute), value)
    return budget.account(str.join(str(d), _parts(budget, items, str(d))))


def _parts(budget: Budget, items: Iterable[Any], separator: str) -> list[str]:
    """Convert the values to join to text, if the result fits the budget."""
    texts, size = [], 0
    for item in items:
        texts.append(_written(budget, item))
        size += len(texts[-1]) + len(separator)
        budget.check(size)
    return texts


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """`tojson` as in transformers: no HTML escapes, and Chinese characters unescaped."""
    budget = _current.get()
    budget.check(budget.check_weight(value))
    if indent is not None and not (isinstance(indent, int) and indent <= _MAX_INDENT):
        raise TemplateLimit(f"tojson is called with indent={str(indent)[:20]!r}; expected at most {_MAX_INDENT}")
    if separators is not None and any(len(str(mark)) > _MAX_INDENT for mark in separators):
        raise TemplateLimit(f"tojson is called with separators of more than {_MAX_INDENT} characters")
    encoder = json.JSONEncoder(
        ensure_ascii=bool(ensure_ascii), indent=indent, separators=separators, sort_keys=bool(sort_keys)
    )
    if indent is None:
        return encoder.encode(value)
    pieces, size = [], 0
    for piece in encoder.iterencode(value):  # indentation may be far larger than what is indented
        pieces.append(piece)
        size += len(piece)
        budget.check(size)
    return "".join(pieces)


def _sum(values: Iterable[Any], start: float = 0) -> float:
    """Jinja's own also adds lists, each time as a new one."""
    return sum((float(value) if not isinstance(value, int) else value for value in values), start)


def _raise(message: str) -> None:
    raise ValueError(message)


def _strftime_now(pattern: str) -> str:
    if len(pattern) > 1000 or _STRFTIME_WIDTH.search(pattern):
        raise TemplateLimit("strftime_now is called with a pattern that makes a long text")
    return datetime.now().strftime(pattern)


# --- refusals before something large is made --------------------------------------------------------------------


def _check_method(budget: Budget, text: str, name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Refuse a string method that would write too much or take too long; return its arguments."""
    if name == "replace" and len(args) >= 2:
        _check_replace(budget, text, str(args[0]), str(args[1]))
    elif name in ("strip", "lstrip", "rstrip") and args:
        _check_trim(budget, text, args[0])
    elif name == "join" and args:
        parts = list(args[0])
        budget.check(sum(len(part) + len(text) for part in parts if isinstance(part, str)))
        return (parts,)
    return args


def _check_replace_filter(budget: Budget, value: Any, old: Any, new: Any, count: int | None = None) -> None:
    _check_replace(budget, _written(budget, value), str(old), str(new))


def _check_replace(budget: Budget, text: str, old: str, new: str) -> None:
    growth = len(new) - len(old)
    budget.check(len(text) + (text.count(old) * growth if growth > 0 else 0))


def _check_trim(budget: Budget, value: Any, chars: Any = None) -> None:
    if isinstance(chars, str) and len(chars) > _MAX_STRIPPED_SET:
        raise TemplateLimit(f"it strips {len(chars):,} different characters; expected at most {_MAX_STRIPPED_SET}")


def _check_text(budget: Budget, value: Any) -> None:
    budget.check(budget.check_weight(value))


def _check_indent(budget: Budget, s: str, width: int | str = 4, first: bool = False, blank: bool = False) -> None:
    step = width if isinstance(width, int) else len(width)
    budget.check(len(s) + (s.count("\n") + 2) * max(step, 0))


def _check_round(budget: Budget, value: Any, precision: int = 0, method: str = "common") -> None:
    if not -20 <= precision <= 20:
        raise TemplateLimit(f"it rounds to {precision} digits; expected -20 to 20")


def _check_product(budget: Budget, left: Any, right: Any) -> None:
    for value, times in ((left, right), (right, left)):
        if isinstance(value, (str, list, tuple)) and isinstance(times, int):
            budget.check(max(times, 0) * budget.check_weight(value))
    if isinstance(left, int) and isinstance(right, int) and _bits(left) + _bits(right) > _MAX_INTEGER_BITS:
        raise TemplateLimit(f"it computes a number of more than {_MAX_INTEGER_BITS} bits")


def _check_power(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int) and _bits(left) * max(right, 1) > _MAX_INTEGER_BITS:
        raise TemplateLimit(f"it computes a number of more than {_MAX_INTEGER_BITS} bits")


def _bits(number: int) -> int:
    return int(number).bit_length()


def _check_printf(budget: Budget, pattern: Any, *args: Any, **kwargs: Any) -> None:
    text = str(pattern)
    if _PRINTF_WIDTH.search(text):
        raise TemplateLimit("it formats with a width of more than 999 characters")
    size = sum(budget.check_weight(value) for value in (*args, *kwargs.values()))
    budget.check(len(text) + text.count("%") * size)


def _check_format(budget: Budget, pattern: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    fields = list(string.Formatter().parse(pattern))
    if any(spec and ("{" in spec or re.search(r"\d{4}", spec)) for _, _, spec, _ in fields):
        raise TemplateLimit("it formats with a width of more than 999 characters")
    size = sum(budget.check_weight(value) for value in (*args, *kwargs.values()))
    budget.check(len(pattern) + len(fields) * size)
