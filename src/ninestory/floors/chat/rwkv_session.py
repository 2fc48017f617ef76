"""A conversation with an RWKV as ChatRWKV's chat program holds it, its commands included.

Because the memory of a text is a small state, a session keeps several of them and goes back to any at no cost: an
answer is drawn again from before it, a free text is carried on, the chat is reset without reading its opening again.
`open_session` brings model and tokenizer; the session itself knows nothing of torch and takes any.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ninestory.core.config import RuntimeSettings
from ninestory.core.errors import InvalidRequest
from ninestory.core.extras import require
from ninestory.core.regular_file import read_regular_text
from ninestory.floors.chat.rwkv_sampling import Floats, Penalty, RwkvSampling, sample
from ninestory.models.resolved import ResolvedModel
from ninestory.models.templates import render

NEVER = -999999999.0
CHAT_TOKENS, FREE_TOKENS, FREE_TOKENS_TO_WHOLE_CHARACTER = 999, 256, 356
NOT_TWICE = "，：？！"
CHAT_SAMPLING = RwkvSampling(temperature=1.2, top_p=0.5, presence=0.4, frequency=0.4)

HELP = """TEXT  say something              +        another answer to the last question
+reset  forget the conversation  +i TEXT  follow an instruction, apart from the conversation
+gen TEXT  carry a text on       +qa TEXT  one question after the opening   +qq TEXT  Q: TEXT A:
+++  carry the last free text on ++       draw the last free text again
+prompt FILE  other names and another opening: a prompt file of ChatRWKV's; the conversation begins anew
-temp=N -top_p=N  in a message: for this message    \\n  a line break"""

_OPTION = re.compile(r"-(temp|top_p)=(\S+)\s*")


class Tokenizer(Protocol):
    @property
    def end_of_text(self) -> int: ...
    @property
    def newline(self) -> int: ...

    def encode(self, text: str) -> list[int]: ...
    def encode_opening(self, text: str) -> list[int]: ...
    def decode(self, ids: list[int]) -> str: ...


class RecurrentModel(Protocol):
    def read(self, tokens: list[int], state: Any) -> tuple[Floats, Any]:
        """Logits [vocab] after the last token, and the new state; the given one (None = nothing read) stays valid."""
        ...


@dataclass(frozen=True)
class Prompt:
    """Who speaks, and the text that every conversation begins with."""

    user: str
    bot: str
    opening: str
    interface: str = ":"

    def turn(self, message: str) -> str:
        return f"{self.user}{self.interface} {message}\n\n{self.bot}{self.interface}"


def prompt_of(template: str) -> Prompt:
    """The names and the opening of a catalogue template ("rwkv-world", "rwkv-raven")."""
    opening = render(template, [], add_generation_prompt=False)
    names = re.findall(r"^(\w+):", opening, re.MULTILINE)
    if len(names) < 2:
        raise InvalidRequest(
            f"The prompt format {template!r} has no opening round that says who speaks.",
            hint="Take rwkv-world or rwkv-raven.",
            hint_zh="请使用 rwkv-world 或 rwkv-raven。",
            param="template",
        )
    return Prompt(names[0], names[1], opening)


def read_prompt_file(path: Path) -> Prompt:
    """A prompt file of ChatRWKV's (`prompt/default/English-2.py`): Python that assigns four texts. It is read, not run.

    Raises:
        InvalidRequest: no such file, or more in it than user, bot, interface and init_prompt as texts.
    """
    try:
        module = ast.parse(read_regular_text(path))
        values: dict[str, str] = {"interface": ":"}
        for statement in module.body:
            if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
                raise ValueError(f"line {statement.lineno} assigns no text")
            values[statement.targets[0].id] = _assigned(statement.value, values)
        return Prompt(values["user"], values["bot"], values["init_prompt"], values["interface"])
    except (OSError, ValueError, SyntaxError, RecursionError, KeyError) as error:
        raise InvalidRequest(
            f"{path} is no prompt file of ChatRWKV's: {error}.",
            hint="It assigns the texts user, bot, interface and init_prompt, and nothing else.",
            hint_zh="文件应只给 user、bot、interface 与 init_prompt 赋文本值。",
            param="prompt",
        ) from error


def _assigned(value: ast.expr, known: Mapping[str, str]) -> str:
    """The text of a literal; an f-string may name texts that were assigned before."""
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        return value.value
    if isinstance(value, ast.JoinedStr):
        return "".join(_assigned(part, known) for part in value.values)
    if isinstance(value, ast.FormattedValue) and isinstance(value.value, ast.Name) and not value.format_spec:
        return known[value.value.id]
    raise ValueError(f"line {value.lineno} holds more than a text")


def opening_text(text: str) -> str:
    """The opening as it is read: one line break before, lines stripped, a blank line after."""
    lines = [line.strip().strip("\u3000").strip("\r") for line in text.strip().split("\n")]
    return "\n" + "\n".join(lines).strip() + "\n\n"


def refine_context(text: str) -> str:
    """A free context without blank lines and blanks at the ends of lines, after one line break."""
    lines = [line.strip().strip("\u3000").strip("\r") for line in text.strip().split("\n")]
    return "\n" + "\n".join(line for line in lines if line).strip()


def instruction(text: str) -> str:
    """Raven's instruction prompt."""
    return render("rwkv-raven-instruct", [{"role": "user", "content": text}])


@dataclass(frozen=True)
class Saved:
    """Where a text stands: what comes next, the memory of it, and its tokens."""

    logits: Floats
    state: Any
    tokens: list[int]


class RwkvSession:
    """One conversation.

    Args:
        seed: of the draws; one uniform number a token.
        chat_tokens, free_tokens: longest answer and longest free text.
    """

    def __init__(
        self,
        model: RecurrentModel,
        tokenizer: Tokenizer,
        prompt: Prompt,
        *,
        sampling: RwkvSampling = CHAT_SAMPLING,
        seed: int | None = None,
        chat_tokens: int = CHAT_TOKENS,
        free_tokens: int = FREE_TOKENS,
    ) -> None:
        self._model, self._tokenizer, self.prompt, self._sampling = model, tokenizer, prompt, sampling
        self._random = np.random.default_rng(seed)
        self._chat_tokens, self._free_tokens = chat_tokens, free_tokens
        marks = [tokenizer.encode(mark) for mark in NOT_TWICE]
        self._not_twice = {ids[0] for ids in marks if len(ids) == 1}
        self.saved: dict[str, Saved] = {}
        self.now = Saved(np.zeros(0, np.float32), None, [])
        self._open(prompt)

    def say(self, message: str) -> Iterator[str]:
        """Answer a message or follow a command; yields what the program prints, piece by piece.

        Raises:
            InvalidRequest: a command that needs something before it, or a value that is no number.
        """
        message = message.replace("\\n", "\n").strip()
        message, sampling = self._options(message)
        if message == "+reset":
            self.now = self.saved["chat"] = self.saved["chat_init"]
            yield f"{self.prompt.bot}{self.prompt.interface} Chat reset.\n\n"
            return
        command, _, text = message.partition(" ")
        if command.lower() == "+prompt":
            self._open(read_prompt_file(Path(text.strip()).expanduser()))
            yield f"{self.prompt.bot}{self.prompt.interface} Prompt set up.\n\n"
            return
        free = self._free_commands().get(command.lower())
        if free is not None:
            free(text.strip())
            self.saved["gen_0"] = self.now
            yield from self._free_text(sampling, offset=-2.0 if command.lower() == "+qa" else 0.0)
            return
        if message == "+":
            self.now = self._kept("chat_pre", "There is no answer to draw again.")
        else:
            self.now = self.saved["chat"]
            self._read(self._tokenizer.encode(self.prompt.turn(_one_paragraph(message))), newline=NEVER)
            self.saved["chat_pre"] = self.now
        yield from self._answer(sampling)

    # --- commands -----------------------------------------------------------------------------------------------

    def _free_commands(self) -> dict[str, Callable[[str], None]]:
        """Commands that prepare a text to be carried on, apart from the conversation."""
        return {
            "+gen": lambda text: self._begin("\n" + text),
            "+i": lambda text: self._begin(instruction(_one_paragraph(text))),
            "+qq": lambda text: self._begin(f"\nQ: {text}\nA:"),
            "+qa": self._question_after_opening,
            "+++": lambda _: self._go_back("gen_1"),
            "++": lambda _: self._go_back("gen_0"),
        }

    def _open(self, prompt: Prompt) -> None:
        """Begin with a prompt's opening; what was said with another one is forgotten."""
        self.prompt, self.saved = prompt, {}
        self.now = Saved(self.now.logits, None, [])
        self._read(self._tokenizer.encode_opening(opening_text(prompt.opening)))
        self.saved["chat_init"] = self.saved["chat"] = self.now

    def _begin(self, text: str) -> None:
        self.now = Saved(self.now.logits, None, [])
        self._read(self._tokenizer.encode(text))

    def _question_after_opening(self, text: str) -> None:
        self.now = self.saved["chat_init"]
        self._read(self._tokenizer.encode(self.prompt.turn(_one_paragraph(text))))

    def _go_back(self, name: str) -> None:
        self.now = self._kept(name, "There is no free text to carry on.")

    def _kept(self, name: str, missing: str) -> Saved:
        if name not in self.saved:
            raise InvalidRequest(
                missing,
                hint="Say something, or begin a text with +gen.",
                hint_zh="请先说点什么，或用 +gen 开始一段文字。",
            )
        return self.saved[name]

    def _options(self, message: str) -> tuple[str, RwkvSampling]:
        """`-temp=` and `-top_p=` inside a message, taken out of it."""
        values: dict[str, float] = {}
        for name, value in _OPTION.findall(message):
            try:
                values[name] = float(value)
            except ValueError:
                raise InvalidRequest(
                    f"-{name}={value} is no number.",
                    hint="For example: -temp=1.2 -top_p=0.5 hello",
                    hint_zh="例如：-temp=1.2 -top_p=0.5 你好",
                    param=name,
                ) from None
        temperature = min(5.0, max(0.2, values["temp"])) if "temp" in values else self._sampling.temperature
        top_p = max(0.0, values.get("top_p", self._sampling.top_p))
        return _OPTION.sub("", message).strip(), replace(self._sampling, temperature=temperature, top_p=top_p)

    # --- reading and drawing ------------------------------------------------------------------------------------

    def _read(self, tokens: list[int], newline: float = 0.0) -> None:
        """Read tokens; the next draw's line break is moved by `newline`, and no mark comes twice in a row."""
        logits, state = self._model.read(tokens, self.now.state)
        logits = np.array(logits, dtype=np.float32)
        logits[self._tokenizer.newline] += newline
        if tokens[-1] in self._not_twice:
            logits[tokens[-1]] = NEVER
        self.now = Saved(logits, state, self.now.tokens + tokens)

    def _draw(self, sampling: RwkvSampling, penalty: Penalty) -> int:
        token = sample(self.now.logits.copy(), sampling, penalty, float(self._random.random()))
        penalty.add(token)
        return token

    def _answer(self, sampling: RwkvSampling) -> Iterator[str]:
        """Draw until a blank line."""
        yield f"{self.prompt.bot}{self.prompt.interface}"
        begin, penalty, shown = len(self.now.tokens), Penalty(sampling), 0
        for i in range(self._chat_tokens):
            self._read([self._draw(sampling, penalty)], newline=_newline_offset(i))
            self.now.logits[self._tokenizer.end_of_text] = NEVER
            drawn = self.now.tokens[begin:]
            text = self._tokenizer.decode(drawn[shown:])
            if "\ufffd" not in text:
                yield text
                shown = len(drawn)
            if "\n\n" in self._tokenizer.decode(drawn):
                break
        self.saved["chat"] = self.now

    def _free_text(self, sampling: RwkvSampling, offset: float) -> Iterator[str]:
        """Draw until the end of the text, or so many tokens and then to a whole character."""
        begin, penalty, shown = len(self.now.tokens), Penalty(sampling), 0
        longest = self._free_tokens + FREE_TOKENS_TO_WHOLE_CHARACTER - FREE_TOKENS
        for i in range(longest):
            token = self._draw(sampling, penalty)
            if token == self._tokenizer.end_of_text:
                break
            self._read([token], newline=offset)
            drawn = self.now.tokens[begin:]
            text = self._tokenizer.decode(drawn[shown:])
            if "\ufffd" not in text:
                yield text
                shown = len(drawn)
                if i + 1 >= self._free_tokens:
                    break
        yield "\n\n"
        self.saved["gen_1"] = self.now


def open_session(model: ResolvedModel, settings: RuntimeSettings, **options: Any) -> RwkvSession:
    """Load a release of RWKV into this process and read the opening of its prompt format.

    Args:
        settings: `rwkv_strategy` says where its layers run, `template` replaces the opening, `threads` are its own.
        options: of `RwkvSession`: sampling, seed, chat_tokens, free_tokens.

    Raises:
        Damaged, Unsupported: what the file is not. InvalidRequest: not a strategy, or a format without an opening.
    """
    require("torch", "torch", "Running RWKV")
    import torch

    from ninestory.architectures.rwkv_checkpoint import load_rwkv
    from ninestory.runtimes.threads import free_processors
    from ninestory.runtimes.torch.rwkv import RwkvReader
    from ninestory.tokenizers.rwkv import load_rwkv_tokenizer

    assert model.path is not None
    torch.set_num_threads(settings.threads or free_processors())
    prompt = prompt_of(settings.template or model.template)
    network = load_rwkv(model.path, strategy=settings.rwkv_strategy or "cpu fp32")
    tokenizer = load_rwkv_tokenizer(network.config.vocab_size, model.path.parent)
    return RwkvSession(RwkvReader(network), tokenizer, prompt, **options)


def _newline_offset(drawn: int) -> float:
    """How welcome a line break is after `drawn` + 1 tokens of an answer: never at once, ever more when it grows long."""
    if drawn == 0:
        return NEVER
    if drawn <= 40:
        return (drawn - 40) / 10
    return 0.0 if drawn <= 150 else min(3.0, (drawn - 150) * 0.25)


def _one_paragraph(text: str) -> str:
    """A blank line would end the turn."""
    return text.strip().replace("\r\n", "\n").replace("\n\n", "\n")
