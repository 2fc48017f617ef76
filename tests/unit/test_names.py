"""One meaning per name: each class name is defined once in src/ninestory."""

import ast
from collections import Counter
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "ninestory"
# Known duplicates, still to be renamed; the set only shrinks.
DUPLICATES = {"Chunk", "Document", "Job", "Part", "Prompt", "RerankRequest", "Scores", "Step"}
DUPLICATES |= {"StreamOptions", "Text", "Tokenizer", "Tool", "_Running"}


def test_every_class_name_is_defined_once() -> None:
    trees = (ast.parse(file.read_text(encoding="utf-8")) for file in SOURCE.rglob("*.py"))
    names = Counter(node.name for tree in trees for node in tree.body if isinstance(node, ast.ClassDef))
    doubled = {name for name, count in names.items() if count > 1}
    assert doubled - DUPLICATES == set(), "class names defined twice; rename one of each"
    assert DUPLICATES - doubled == set(), "names that are unique by now; take them out of DUPLICATES"
