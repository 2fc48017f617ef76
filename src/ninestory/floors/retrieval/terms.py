"""The words of a question that say what it is about, and whether a passage holds them.

Vectors blur exact strings: two error codes are near each other whatever they mean. So a search also looks for the
question's identifiers letter by letter, and full text is asked for its content words only: the function words of one
language are in every passage of that language and in no passage of another.
"""

from __future__ import annotations

import re

from ninestory.floors.retrieval.prompts import Language

_FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        """a about above after again against all also am an and any are as at be because been before being below between
        both but by came can cannot come comes could did do does doing don during each either else ever every few for
        from further get gets go goes going got had has have having he her here hers him his how i if in into is it its
        itself just let many may me mean means might mine more most much must my no nor not of off on once only or other
        our out over own please same shall she should so some such tell than that the their them then there these they
        this those through to too under until up upon us very was we went were what when where whether which while who
        whom whose why will with within without would yet you your""",
    )
)
# Longest first, since the shorter ones are parts of them.
_CHINESE_FUNCTION_WORDS = re.compile(
    "为什么|怎么样|怎么办|什么时候|什么样|是什么|有什么|有哪些|是不是|能不能|可不可以|是否|什么|怎么|怎样|如何|哪里|哪些|哪个|哪儿|"
    "多少|多长|请问|可以|应该|需要|我们|你们|他们|它们|这个|那个|这些|那些|哪|谁|吗|呢|吧|啊|的|了|是|在|和|与|或|我|你|他|她|它"
)
_CHINESE = re.compile(r"[\u3400-\u9fff]+")
_WORD = re.compile(r"[^\W_\u3400-\u9fff]+", re.UNICODE)
_TOKEN = re.compile(r"(?<![A-Za-z0-9_])(?:--?(?=[A-Za-z]))?[~/]?[A-Za-z0-9_](?:[A-Za-z0-9_./:+@~-]*[A-Za-z0-9_+])?")
_QUOTATION = re.compile(r"[\"“”「『`]([^\"“”「」『』`]{8,200})[\"“”」』`]")
_CODE = re.compile(
    r"-.|[~/].|.*_.|.*/.*/"  # options, paths, snake_case
    r"|.*[A-Za-z][.-]?\d|.*\d[A-Za-z]"  # letters beside digits: codes, versions with a name
    r"|.*[a-z]\.[a-z]{2}|.*[a-z][A-Z]|\d+(?:\.\d+)+"  # file names, camelCase, version numbers
)


def language_of(text: str) -> Language:
    """zh when a quarter of the letters are Chinese characters."""
    letters = [char for char in text if char.isalpha()]
    chinese = sum(map(len, _CHINESE.findall(text)))
    return "zh" if letters and chinese * 4 >= len(letters) else "en"


def identifiers(question: str) -> tuple[str, ...]:
    """Codes, options, file names, versions and quoted messages of a question, in its order and each once."""
    quoted = [match.strip() for match in _QUOTATION.findall(question) if len(match.split()) >= 3]
    codes = [token for token in _TOKEN.findall(question) if len(token) > 1 and _CODE.match(token)]
    return tuple(dict.fromkeys([*quoted, *codes]))


def names(question: str) -> tuple[str, ...]:
    """Numbers, words written with a capital after the first word, and Latin words in a Chinese question."""
    words = [match for match in _WORD.finditer(question) if match[0].isascii()]
    in_chinese = _CHINESE.search(question) is not None
    return tuple(
        dict.fromkeys(
            match[0]
            for match in words
            if match[0].lower() not in _FUNCTION_WORDS
            and len(match[0]) > 1
            and (in_chinese or match[0].isdigit() or (match[0][0].isupper() and match.start() > 0))
        )
    )


def holds(text: str, identifier: str) -> bool:
    """Whether a text holds an identifier whole, whatever its case: E21 is not in "E210", nor --purge in --purge-all."""
    wanted = r"\s+".join(re.escape(part) for part in identifier.split())
    return re.search(rf"(?<![A-Za-z0-9_]){wanted}(?![A-Za-z0-9_]|-[A-Za-z0-9])", text, re.IGNORECASE) is not None


def content_words(question: str) -> str:
    """The question without its function words, for a full-text search; the question itself when nothing else is left."""
    bare = _CHINESE_FUNCTION_WORDS.sub(" ", question)
    kept = _WORD.sub(lambda match: " " if match[0].lower() in _FUNCTION_WORDS else match[0], bare)
    whole = [one for one in identifiers(question) if one not in kept]
    return " ".join([*kept.split(), *whole]) if _WORD.search(kept) or _CHINESE.search(kept) or whole else question


def content_terms(question: str) -> frozenset[str]:
    """What the question is about: stems of words, and of Chinese every two characters in a row."""
    found = {_stem(word.lower()) for word in _WORD.findall(content_words(question))}
    for run in _CHINESE.findall(_CHINESE_FUNCTION_WORDS.sub(" ", question)):
        found |= {run[i : i + 2] for i in range(max(len(run) - 1, 1))}
    return frozenset(found)


def coverage(terms: frozenset[str], text: str) -> float:
    """The share of a question's content terms that a text holds."""
    if not terms:
        return 0.0
    words = {_stem(word) for word in _WORD.findall(text.lower())}
    return sum(term in (text if _CHINESE.match(term) else words) for term in terms) / len(terms)


def _stem(word: str) -> str:
    """A word without the commonest English endings: flows, flowed and flowing are one."""
    for ending in ("ing", "ed", "es", "s"):
        if len(word) - len(ending) >= 3 and word.endswith(ending):
            return word[: -len(ending)].removesuffix("e")
    return word.removesuffix("e") if len(word) > 3 else word
