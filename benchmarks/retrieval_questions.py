"""Questions beside the manuals' headings: identifiers, other languages, and follow-ups that leave the topic.

All are made from the sections that `retrieval_corpus.write_sections` wrote, by seed, or written here by hand.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from retrieval_corpus import NUMBER, handbook_pages, language_of_file, pages
from selectolax.lexbor import LexborHTMLParser

from ninestory.floors.retrieval.evaluate import Question

_FEWEST, _MOST_FILES = 1, 4  # files of one language that an identifier stands in
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z]+(?:-[a-z]+)*(?![\w-])")
_FILE = re.compile(r"(?<![\w./~-])(?:~|/(?:etc|usr|var|proc|sys|dev|boot|lib))(?:/[\w.+-]+)+(?![\w/])")
_MESSAGE = re.compile(
    r"^(?:[a-z-]+: )?((?:[EW](?=:)|Error|error|ERROR|warning|Warning|cannot|Cannot|Could not|Failed|failed|Unable)\b"
    r"[^\n<>|;\"“”]{14,80}?)[.]?$",
    re.MULTILINE,
)
_ASKED = {
    "option": {
        "en": ("What does {0} do?", "When do I use the option {0}?", "{0}", "Which command takes {0}?"),
        "zh": ("{0} 有什么作用？", "什么时候使用选项 {0}？", "{0}", "哪个命令有 {0} 选项？"),
    },
    "file": {
        "en": ("What is {0} for?", "What do I write into {0}?", "{0}", "Which program reads {0}?"),
        "zh": ("{0} 有什么用？", "{0} 里应该写什么？", "{0}", "哪个程序读取 {0}？"),
    },
    "message": {
        "en": ('What does "{0}" mean?', "{0}", 'How do I get rid of "{0}"?'),
        "zh": ("“{0}” 是什么意思？", "{0}", "出现 “{0}” 怎么办？"),
    },
}
_QUESTIONS_OF_A_KIND = 50  # in each language


@dataclass(frozen=True)
class IdentifierQuestion:
    """A question of a string; `files` are all that hold it, in whatever language."""

    question: str
    identifier: str
    kind: str
    language: str
    files: frozenset[str]


@dataclass(frozen=True)
class FollowUp:
    """A question after another one that the documents answer."""

    before: str
    question: str


def identifier_questions(folder: Path) -> list[IdentifierQuestion]:
    """Questions of options, file names and messages that few sections hold."""
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    texts = {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.txt"))}
    for name, text in texts.items():
        for kind, pattern in (("option", _OPTION), ("file", _FILE), ("message", _MESSAGE)):
            for identifier in pattern.findall(text):
                found[kind, identifier.rstrip(".:")].add(name)
    draw = random.Random(0)
    made = []
    for kind in _ASKED:
        for language in ("en", "zh"):
            chosen = []
            for (own_kind, identifier), files in sorted(found.items()):
                own = [file for file in files if file.startswith(f"{language}-")]
                if own_kind == kind and len(identifier) >= 5 and _FEWEST <= len(own) <= _MOST_FILES:
                    chosen.append((identifier, frozenset(files)))
            for number, (identifier, files) in enumerate(draw.sample(chosen, min(_QUESTIONS_OF_A_KIND, len(chosen)))):
                ways = _ASKED[kind][language]
                made.append(
                    IdentifierQuestion(ways[number % len(ways)].format(identifier), identifier, kind, language, files)
                )
    return made


def cross_language_questions(root: Path, questions: Sequence[Question]) -> list[Question]:
    """Each heading asked of the section with the same anchor in the other language."""
    anchors: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for page in [*pages(root), *handbook_pages(root)]:
        language = "zh" if "zh-cn" in page.name or page.parent.name == "zh-CN" else "en"
        name = page.name.split(".en.")[0].split(".zh-cn.")[0]
        for heading in LexborHTMLParser(page.read_text(encoding="utf-8")).css("h1, h2, h3, h4, h5"):
            anchor = heading.css_first("a[id]")
            if anchor is not None:
                title = " ".join(NUMBER.sub("", heading.text(deep=True).strip()).split())
                anchors[name, str(anchor.attributes["id"])][language] = title
    files = {(language_of_file(q), " ".join(q.question.split())): q.file for q in questions}
    pairs = []
    for titles in anchors.values():
        for own, other in (("en", "zh"), ("zh", "en")):
            file = files.get((other, titles.get(other, "")))
            if file and (own, titles.get(own, "")) in files:
                pairs.append(Question(titles[own], file))
    return pairs


def off_topic_follow_ups(questions: Sequence[Question]) -> list[FollowUp]:
    """Every question of `OFF_TOPIC_AFTER` after a heading, of the same language or of the other one in turn."""
    draw = random.Random(0)
    return [FollowUp(draw.choice(questions).question, asked) for asked in OFF_TOPIC_AFTER]


def follow_ups_that_refer(questions: Sequence[Question]) -> list[FollowUp]:
    """Follow-ups that are understood only with what was asked before; the documents go on answering."""
    draw = random.Random(1)
    asked: dict[Literal["en", "zh"], tuple[str, ...]] = {"en": REFERRING_EN, "zh": REFERRING_ZH}
    return [
        FollowUp(draw.choice([q for q in questions if language_of_file(q) == language]).question, follow_up)
        for language, follow_ups in asked.items()
        for follow_up in follow_ups
    ]


REFERRING_EN = (
    "Why is that?", "How do I do it?", "Can you say more about this?", "And what happens if it fails?",
    "Is there another way to do that?", "What are its drawbacks?", "Give me an example of that.",
    "Which of them should I choose?", "How do I undo it?", "Where is it described?", "Do I need root for this?",
    "What does it need?", "And on a server?", "Is that safe?", "When was it added?", "What about the alternatives?",
    "How can I check that it worked?", "Why should I do this?", "And then?", "How does it work?",
)  # fmt: skip
REFERRING_ZH = (
    "为什么？", "具体怎么做？", "能再详细一点吗？", "如果失败了怎么办？", "还有别的办法吗？", "它有什么缺点？", "举个例子。",
    "应该选哪一个？", "怎样撤销它？", "这在哪里有说明？", "这需要 root 权限吗？", "它依赖什么？", "那在服务器上呢？", "这样安全吗？",
    "它是什么时候加入的？", "其他的呢？", "怎么确认它成功了？", "为什么要这样做？", "然后呢？", "它是怎样工作的？",
)  # fmt: skip
OFF_TOPIC_AFTER = (
    "Who won the football world cup in 1990?", "How long should I cook fresh pasta?",
    "What is the capital of Australia?", "How do I prune apple trees in winter?", "What are the symptoms of the flu?",
    "How far away is the moon?", "Which vitamins are in oranges?", "And who painted the Mona Lisa?",
    "How many players are in a volleyball team?", "What is a good recipe for pumpkin soup?",
    "How tall is Mount Everest?", "When did the Roman Empire fall?", "How do I get red wine out of a carpet?",
    "What is the best time to visit Iceland?", "How often should I water an orchid?",
    "Which river flows through Vienna?", "What do penguins eat?", "How do I teach my dog to sit?",
    "Who composed The Magic Flute?", "How much does a blue whale weigh?", "Why is the sky blue?",
    "What is the offside rule?", "How do I knit a scarf?", "Which planet has the most moons?",
    "How long is a marathon?", "What causes an earthquake?", "How do I treat a sunburn?",
    "Who was the first woman in space?", "What is the boiling point of alcohol?", "How do bees make honey?",
    "When is the rainy season in Thailand?", "Which wine goes with salmon?", "How do I change a flat tyre?",
    "What is the population of Brazil?", "How are diamonds formed?", "Who wrote Pride and Prejudice?",
    "And what is the weather like in Madrid in May?", "How do I make sourdough bread?",
    "What year did the Titanic sink?", "How many bones does an adult have?",
    "How long does it take to boil an egg?", "Is it true that goldfish have no memory?",
    "What is it that makes volcanoes erupt?",
    "红烧肉应该炖多长时间？", "月球离地球有多远？", "感冒有哪些症状？", "怎么给婴儿洗澡？", "今天的股市行情怎么样？", "唐朝是哪一年建立的？",
    "世界杯冠军是哪个国家？", "西湖在哪个城市？", "养金鱼需要注意什么？", "怎样腌制泡菜？", "长城有多长？", "《红楼梦》的作者是谁？",
    "大熊猫吃什么？", "怎样学好钢琴？", "打篮球怎么提高弹跳？", "去海南旅游几月份最好？", "高血压患者不能吃什么？", "端午节为什么吃粽子？",
    "黄河发源于哪里？", "怎样种植草莓？", "蚊子为什么咬人？", "那李白是哪个朝代的诗人？", "怎么去除衣服上的油渍？", "孕妇可以喝咖啡吗？",
    "太阳系最大的行星是哪颗？", "饺子馅怎么调？", "婚礼上应该送什么礼物？", "羽毛球双打的发球规则是什么？", "猫为什么怕水？", "中秋节的由来是什么？",
    "怎样治疗失眠？", "北京烤鸭怎么做？", "汽车多久换一次机油？", "竹子多长时间开一次花？", "珠穆朗玛峰有多高？", "怎样挑选西瓜？",
    "二十四节气有哪些？", "马拉松全程多少公里？", "第一个登上月球的人是谁？", "怎样照顾多肉植物？",
    "这个周末上海的天气怎么样？", "这道红烧肉要放多少糖？", "听说这次奥运会在巴黎举行，对吗？",
)  # fmt: skip
