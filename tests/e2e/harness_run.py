"""Run the field's harnesses against a server: lm-eval's three API models and mteb, each unchanged. Prints JSON.

In a process of its own: they import pandas, datasets and scikit-learn, which nothing else here needs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np


def run_lm_eval(plan: dict[str, Any]) -> dict[str, Any]:
    """Name of a run → what lm-eval reports: its metrics, and of each sample what the model answered."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=plan["tasks"], include_defaults=False)
    report = {}
    for name, run in plan["runs"].items():
        results = simple_evaluate(
            model=run["model"],
            model_args=run["model_args"],
            tasks=run["tasks"],
            batch_size=run["batch_size"],
            apply_chat_template=run["model"] == "local-chat-completions",
            task_manager=manager,
            bootstrap_iters=0,
        )
        assert results is not None
        report[name] = {
            "results": results["results"],
            "responses": {task: [sample["resps"] for sample in rows] for task, rows in results["samples"].items()},
        }
    return report


class ServedEncoder:
    """mteb's encoder over `/v1/embeddings`; says whether a text is a query or a passage."""

    def __init__(self, url: str, model: str) -> None:
        from mteb.models import ModelMeta

        self._http, self._model = httpx.Client(base_url=url, timeout=120), model
        self.asked: list[str] = []
        self.mteb_model_meta = ModelMeta.create_empty({"name": "ninestory/served", "revision": "1"})

    def encode(self, inputs: Any, *, prompt_type: Any = None, **_: Any) -> Any:
        """float32 [texts, dimensions]."""
        kind = "query" if prompt_type is not None and prompt_type.value == "query" else "passage"
        vectors = []
        for batch in inputs:
            body = {"model": self._model, "input": list(batch["text"]), "input_type": kind}
            rows = self._http.post("/v1/embeddings", json=body).raise_for_status().json()["data"]
            vectors += [row["embedding"] for row in rows]
            self.asked += [kind] * len(rows)
        return np.array(vectors, dtype=np.float32)

    def similarity(self, first: Any, second: Any) -> Any:
        import torch

        return torch.as_tensor(first) @ torch.as_tensor(second).T  # of unit vectors

    def similarity_pairwise(self, first: Any, second: Any) -> Any:
        import torch

        return (torch.as_tensor(first) * torch.as_tensor(second)).sum(-1)


def run_mteb(plan: dict[str, Any]) -> dict[str, Any]:
    """Scores of a retrieval task whose texts are in `plan`."""
    import mteb
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
    from mteb.abstasks.task_metadata import TaskMetadata

    class Passages(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name="NinestoryPassages",
            description="Which passage answers the question",
            dataset={"path": "local", "revision": "1"},
            type="Retrieval",
            category="t2t",
            modalities=["text"],
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
        )

        def load_data(self, *_: Any, **__: Any) -> None:
            queries = [{"id": f"q{i}", "text": text} for i, text in enumerate(plan["queries"])]
            corpus = [{"id": f"p{i}", "text": text, "title": ""} for i, text in enumerate(plan["passages"])]
            relevant = {f"q{i}": {f"p{answer}": 1} for i, answer in enumerate(plan["answers"])}
            split = RetrievalSplitData(
                corpus=Dataset.from_list(corpus),
                queries=Dataset.from_list(queries),
                relevant_docs=relevant,
                top_ranked=None,
            )
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    encoder = ServedEncoder(plan["url"], plan["model"])
    results = mteb.evaluate(encoder, Passages(), cache=None, overwrite_strategy="always", show_progress_bar=False)
    [scores] = results.task_results[0].scores["test"]
    return {"scores": scores, "asked": encoder.asked}


if __name__ == "__main__":
    plan = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    report = {"lm_eval": run_lm_eval(plan["lm_eval"]), "mteb": run_mteb(plan["mteb"])}
    Path(sys.argv[2]).write_text(json.dumps(report, default=str), encoding="utf-8")
