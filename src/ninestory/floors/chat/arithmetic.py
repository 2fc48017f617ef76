"""Arithmetic and equations from text, without running any of it: a calculator and an equation solver.

Both parse with Python's own grammar and walk the tree; names, attributes and calls other than the listed functions
are refused, and so is work that would not end (powers and factorials beyond `MOST_BITS`).
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable
from fractions import Fraction

from ninestory.core.errors import InvalidRequest

MOST_CHARACTERS, MOST_BITS, MOST_UNKNOWNS, MOST_DEGREE = 500, 8192, 10, 20
Number = int | float | Fraction
Polynomial = dict[tuple[tuple[str, int], ...], Fraction]  # ((unknown, power), …) → coefficient; () is the constant

_FUNCTIONS: dict[str, Callable[[float], float]] = {
    name: getattr(math, name) for name in ("sqrt", "sin", "cos", "tan", "asin", "acos", "atan", "exp", "log10", "log2")
} | {"ln": math.log, "log": math.log, "abs": abs, "floor": math.floor, "ceil": math.ceil}
_CONSTANTS = {"pi": math.pi, "e": math.e}
_SPELLINGS = str.maketrans(
    {"×": "*", "÷": "/", "−": "-", "（": "(", "）": ")", "，": ",", "＝": "=", "；": ";", "^": "~"}
)
_OPERATORS: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


def calculate(expression: str) -> str:
    """The value of an arithmetic expression, exact where it is rational.

    Raises:
        InvalidRequest: not arithmetic, undefined (division by zero), or too large.

    >>> calculate("(355/113 - 3) × 2^3"), calculate("sqrt(2)"), calculate("1/3 + 1/6")
    ('1.13274336283', '1.41421356237', '0.5')
    """
    tree = _parsed(expression)
    try:
        return _written(_value(tree, expression))
    except (ZeroDivisionError, ValueError, OverflowError) as error:
        raise _refused(expression, str(error)) from error


def solve(text: str) -> str:
    """Solutions of one equation of one unknown (up to degree `MOST_DEGREE`), or of a system of linear equations.

    Args:
        text: equations separated by commas, semicolons or line breaks.

    Raises:
        InvalidRequest: not an equation, or a kind that is not solved here.

    >>> solve("2x + 3 = 11"), solve("x^2 = 2"), solve("x + y = 3, x - y = 1")
    ('x = 4', 'x = -1.41421356237 or x = 1.41421356237', 'x = 2, y = 1')
    """
    equations = [part for part in re.split(r"[,;\n]", text.translate(_SPELLINGS)) if part.strip()]
    if not equations or any(part.count("=") != 1 for part in equations):
        raise _refused(text, "an equation has two sides and one '='")
    polynomials = []
    for equation in equations:
        left, right = (_polynomial(_parsed(side), text) for side in equation.split("="))
        polynomials.append(_sum(left, right, -1))
    unknowns = sorted({name for p in polynomials for term in p for name, _ in term})
    if len(unknowns) > MOST_UNKNOWNS:
        raise _refused(text, f"it has {len(unknowns)} unknowns and {MOST_UNKNOWNS} are the most")
    if all(sum(power for _, power in term) <= 1 for p in polynomials for term in p):
        return _linear(polynomials, unknowns)
    if len(polynomials) == len(unknowns) == 1:
        return _roots(polynomials[0], unknowns[0], text)
    raise _refused(text, "a system with products of unknowns is not solved here")


def _parsed(text: str) -> ast.expr:
    """The tree of an expression in everyday spelling: ^ is a power, 2x a product, 5% a fraction."""
    spelled = re.sub(r"(\d)\s*%(?!\s*[\d(a-zA-Z])", r"\1/100", text.translate(_SPELLINGS)).replace("~", "**")
    spelled = re.sub(r"((?<![a-zA-Z0-9_.])\d+(?:\.\d+)?|\))\s*(?=[a-zA-Z(])", r"\1*", spelled)
    if len(spelled) > MOST_CHARACTERS:
        raise _refused(text[:60] + "…", f"it has more than {MOST_CHARACTERS} characters")
    try:
        return ast.parse(spelled.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _refused(text, "it cannot be read") from error


def _value(node: ast.expr, text: str) -> Number:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return Fraction(str(value)) if isinstance(value, float) and math.isfinite(value) else value
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, text)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand, text)
        case ast.Call(func=ast.Name(id="factorial"), args=[argument], keywords=[]):
            number = _value(argument, text)
            if number != int(number) or not 0 <= number <= 1000:
                raise _refused(text, "a factorial is taken of whole numbers from 0 to 1000")
            return math.factorial(int(number))
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in _FUNCTIONS:
            return _FUNCTIONS[name](_value(argument, text))  # type: ignore[arg-type]
        case ast.BinOp(op=ast.Pow(), left=left, right=right):
            return _power(_value(left, text), _value(right, text), text)
        case ast.BinOp(op=ast.Div(), left=left, right=right):
            a, b = _value(left, text), _value(right, text)
            return a / b if isinstance(a, float) or isinstance(b, float) else Fraction(a) / Fraction(b)
        case ast.BinOp(op=op, left=left, right=right) if type(op) in _OPERATORS:
            return _bounded(_OPERATORS[type(op)](_value(left, text), _value(right, text)), text)
    raise _refused(text, "it holds something that is no arithmetic")


def _power(base: Number, exponent: Number, text: str) -> Number:
    if isinstance(exponent, float) or Fraction(exponent).denominator != 1 or isinstance(base, float):
        result = float(base) ** float(exponent)
        if isinstance(result, complex):
            raise _refused(text, "its value is not a real number")
        return result
    whole, base = int(exponent), Fraction(base)
    size = max(abs(base.numerator).bit_length(), base.denominator.bit_length())
    if abs(whole) * size > MOST_BITS:
        raise _refused(text, "its value is too large")
    return base**whole


def _bounded(value: Number, text: str) -> Number:
    if not isinstance(value, float) and abs(Fraction(value).numerator).bit_length() > MOST_BITS:
        raise _refused(text, "its value is too large")
    return value


def _polynomial(node: ast.expr, text: str) -> Polynomial:
    match node:
        case ast.Name(id=name) if name not in _CONSTANTS or name == "e":
            return {((name, 1),): Fraction(1)}
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _sum({}, _polynomial(operand, text), -1)
        case ast.BinOp(op=ast.Add() | ast.Sub() as op, left=left, right=right):
            sign = 1 if isinstance(op, ast.Add) else -1
            return _sum(_polynomial(left, text), _polynomial(right, text), sign)
        case ast.BinOp(op=ast.Mult(), left=left, right=right):
            return _product(_polynomial(left, text), _polynomial(right, text), text)
        case ast.BinOp(op=ast.Div(), left=left, right=right):
            divisor = _polynomial(right, text)
            if set(divisor) != {()}:
                raise _refused(text, "an unknown stands below a fraction, or zero does")
            return {term: value / divisor[()] for term, value in _polynomial(left, text).items()}
        case ast.BinOp(op=ast.Pow(), left=left, right=ast.Constant(value=int() as power)) if 0 <= power <= MOST_DEGREE:
            base, result = _polynomial(left, text), Polynomial({(): Fraction(1)})
            for _ in range(power):
                result = _product(result, base, text)
            return result
    try:
        value = Fraction(_value(node, text))
    except (ZeroDivisionError, ValueError, OverflowError) as error:
        raise _refused(text, str(error)) from error
    return {(): value} if value else {}


def _sum(left: Polynomial, right: Polynomial, sign: int) -> Polynomial:
    terms = {term: left.get(term, Fraction(0)) + sign * right.get(term, Fraction(0)) for term in {**left, **right}}
    return {term: value for term, value in terms.items() if value}


def _product(left: Polynomial, right: Polynomial, text: str) -> Polynomial:
    made: Polynomial = {}
    for first, a in left.items():
        for second, b in right.items():
            powers: dict[str, int] = {}
            for name, power in first + second:
                powers[name] = powers.get(name, 0) + power
            if sum(powers.values()) > MOST_DEGREE:
                raise _refused(text, f"its degree is above {MOST_DEGREE}")
            term = tuple(sorted(powers.items()))
            made[term] = made.get(term, Fraction(0)) + a * b
    return {term: value for term, value in made.items() if value}


def _linear(polynomials: list[Polynomial], unknowns: list[str]) -> str:
    """Gauss-Jordan elimination over the rationals."""
    rows = [[p.get(((name, 1),), Fraction(0)) for name in unknowns] + [-p.get((), Fraction(0))] for p in polynomials]
    pivots: list[int] = []
    for column in range(len(unknowns)):
        found = next((r for r in range(len(pivots), len(rows)) if rows[r][column]), None)
        if found is None:
            continue
        at = len(pivots)
        rows[at], rows[found] = rows[found], rows[at]
        rows[at] = [value / rows[at][column] for value in rows[at]]
        for r in range(len(rows)):
            if r != at:
                rows[r] = [a - rows[r][column] * b for a, b in zip(rows[r], rows[at], strict=True)]
        pivots.append(column)
    if any(row[-1] for row in rows[len(pivots) :]):
        return "no solution"
    if len(pivots) < len(unknowns) or not unknowns:
        return "infinitely many solutions"
    return ", ".join(f"{name} = {_written(rows[i][-1])}" for i, name in enumerate(unknowns))


def _roots(polynomial: Polynomial, name: str, text: str) -> str:
    import numpy as np

    degree = max(sum(power for _, power in term) for term in polynomial)
    coefficients = [polynomial.get(((name, n),) if n else (), Fraction(0)) for n in range(degree, -1, -1)]
    try:
        found = np.roots([float(c) for c in coefficients])
    except (OverflowError, ValueError, np.linalg.LinAlgError) as error:
        raise _refused(text, "its coefficients are too large") from error
    real = sorted(
        {_written(float(root.real)) for root in found if abs(root.imag) < 1e-7 * max(1, abs(root))}, key=float
    )
    return " or ".join(f"{name} = {value}" for value in real) or "no real solution"


def _written(value: Number) -> str:
    """Whole numbers in full, others with twelve digits."""
    if isinstance(value, float) and not math.isfinite(value):
        raise OverflowError("its value is too large")
    exact = Fraction(value)
    near = round(exact) if not isinstance(value, float) or abs(value) < 2**53 else None
    if near is not None and (exact == near or (isinstance(value, float) and abs(value - near) < 1e-10)):
        return str(near)
    return f"{float(value):.12g}"


def _refused(text: str, why: str) -> InvalidRequest:
    return InvalidRequest(
        f"{text[:80]!r} cannot be worked out: {why}.",
        hint="Write numbers, + - * / ^ and brackets, such as (3 + 4) * 2, or an equation such as 2x + 3 = 11.",
        hint_zh="请使用数字、+ - * / ^ 与括号，例如 (3 + 4) * 2，或方程如 2x + 3 = 11。",
        code="not_arithmetic",
    )
