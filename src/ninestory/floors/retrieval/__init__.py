"""Floor 2: answers from local documents, with citations (langchain-ChatGLM's trade).

    base = create(home, "manuals")
    report = IngestReport(); add_paths(base, [Path("docs")], report)
    ingest(base, Embedder(engine), progress, report)
    hits = search(ChunkReader(base), question, embedder.query(question))
    prepared = prepare(question, hits, thresholds=base.thresholds)

Names are imported on first use: the gateway takes the folder's side of it without LanceDB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ninestory.core.lazy import lazy_names

if TYPE_CHECKING:  # what a type checker sees; `__getattr__` below gives the same names
    from ninestory.floors.retrieval.answer import Prepared, as_source, calm, citations, place_of, prepare, sent_to
    from ninestory.floors.retrieval.archive import export_base, import_base
    from ninestory.floors.retrieval.embedder import Embedder
    from ninestory.floors.retrieval.evaluate import (
        Question,
        parse_setting,
        questions_by_model,
        questions_of_feedback,
        questions_of_headings,
        read_questions,
    )
    from ninestory.floors.retrieval.evaluate import evaluate as evaluate_search
    from ninestory.floors.retrieval.faithfulness import faithfulness as measure_faithfulness
    from ninestory.floors.retrieval.gate import accepted_by
    from ninestory.floors.retrieval.hits import Hit, SearchOptions
    from ninestory.floors.retrieval.ingest import IngestReport, add_page, add_paths, changed_files, files_of
    from ninestory.floors.retrieval.ingest import compact as compact_base
    from ninestory.floors.retrieval.ingest import ingest as ingest_documents
    from ninestory.floors.retrieval.knowledge_base import (
        DEFAULT_MODEL,
        KnowledgeBase,
        KnowledgeFile,
        Thresholds,
        each_base,
        lowest_thresholds,
        open_base,
        open_by_id,
        remove_base,
        remove_by_id,
        sweep,
    )
    from ninestory.floors.retrieval.knowledge_base import create as create_base
    from ninestory.floors.retrieval.parsing.isolated import ParserProcess
    from ninestory.floors.retrieval.prompts import SEARCH_WORDS
    from ninestory.floors.retrieval.rerank import CANDIDATES, LATE, Score, reranked
    from ninestory.floors.retrieval.rerank import scorer as rerank_scorer
    from ninestory.floors.retrieval.search import Read, search_all
    from ninestory.floors.retrieval.search import search as search_passages
    from ninestory.floors.retrieval.session import AnswerOptions, DocumentAnswer, DocumentSession
    from ninestory.floors.retrieval.source import PAGES_OF_A_PASSAGE, kind_of
    from ninestory.floors.retrieval.table import ChunkReader
    from ninestory.floors.retrieval.terms import language_of
    from ninestory.floors.retrieval.verify import verify_base

_HOMES = {
    **dict.fromkeys(["Prepared", "as_source", "calm", "citations", "place_of", "prepare", "sent_to"], "answer"),
    **dict.fromkeys(["export_base", "import_base"], "archive"),
    "Embedder": "embedder",
    **dict.fromkeys(
        [
            "Question",
            "parse_setting",
            "questions_by_model",
            "questions_of_feedback",
            "questions_of_headings",
            "read_questions",
        ],
        "evaluate",
    ),
    "evaluate_search": "evaluate:evaluate",
    "measure_faithfulness": "faithfulness:faithfulness",
    "accepted_by": "gate",
    **dict.fromkeys(["Hit", "SearchOptions"], "hits"),
    **dict.fromkeys(["IngestReport", "add_page", "add_paths", "changed_files", "files_of"], "ingest"),
    "compact_base": "ingest:compact",
    "ingest_documents": "ingest:ingest",
    **dict.fromkeys(
        [
            "DEFAULT_MODEL",
            "KnowledgeBase",
            "KnowledgeFile",
            "Thresholds",
            "each_base",
            "lowest_thresholds",
            "open_base",
            "open_by_id",
            "remove_base",
            "remove_by_id",
            "sweep",
        ],
        "knowledge_base",
    ),
    "create_base": "knowledge_base:create",
    "ParserProcess": "parsing.isolated",
    "SEARCH_WORDS": "prompts",
    **dict.fromkeys(["CANDIDATES", "LATE", "Score", "reranked"], "rerank"),
    "rerank_scorer": "rerank:scorer",
    **dict.fromkeys(["Read", "search_all"], "search"),
    "search_passages": "search:search",
    **dict.fromkeys(["AnswerOptions", "DocumentAnswer", "DocumentSession"], "session"),
    **dict.fromkeys(["PAGES_OF_A_PASSAGE", "kind_of"], "source"),
    "ChunkReader": "table",
    "language_of": "terms",
    "verify_base": "verify",
}
__all__ = [
    "CANDIDATES",
    "DEFAULT_MODEL",
    "LATE",
    "PAGES_OF_A_PASSAGE",
    "SEARCH_WORDS",
    "AnswerOptions",
    "ChunkReader",
    "DocumentAnswer",
    "DocumentSession",
    "Embedder",
    "Hit",
    "IngestReport",
    "KnowledgeBase",
    "KnowledgeFile",
    "ParserProcess",
    "Prepared",
    "Question",
    "Read",
    "Score",
    "SearchOptions",
    "Thresholds",
    "accepted_by",
    "add_page",
    "add_paths",
    "as_source",
    "calm",
    "changed_files",
    "citations",
    "compact_base",
    "create_base",
    "each_base",
    "evaluate_search",
    "export_base",
    "files_of",
    "import_base",
    "ingest_documents",
    "kind_of",
    "language_of",
    "lowest_thresholds",
    "measure_faithfulness",
    "open_base",
    "open_by_id",
    "parse_setting",
    "place_of",
    "prepare",
    "questions_by_model",
    "questions_of_feedback",
    "questions_of_headings",
    "read_questions",
    "remove_base",
    "remove_by_id",
    "rerank_scorer",
    "reranked",
    "search_all",
    "search_passages",
    "sent_to",
    "sweep",
    "verify_base",
]
__getattr__ = lazy_names(__name__, _HOMES)
