"""The peer of `retrieval_speed.py ingest`, run by the Python of its own environment: langchain's splitter with the
model's tokenizer, sentence-transformers, FAISS. Prints one line of JSON."""

from __future__ import annotations

import json
import resource
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from langchain_community.vectorstores import FAISS
from langchain_core.embeddings import Embeddings
from langchain_text_splitters import RecursiveCharacterTextSplitter
from sentence_transformers import SentenceTransformer


class Passages(Embeddings):
    """What langchain's wrapper around sentence-transformers does: `encode` in batches of 32, normalised."""

    def __init__(self, model: SentenceTransformer) -> None:
        self.model = model

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self.model.encode(["passage: " + text for text in texts], normalize_embeddings=True).tolist()

    def embed_query(self, text: str) -> list[float]:
        return self.model.encode(["query: " + text], normalize_embeddings=True)[0].tolist()


def main() -> None:
    torch.set_num_threads(1)
    model = SentenceTransformer(sys.argv[1], device="cpu")
    embeddings = Passages(model)
    embeddings.embed_query("warm up")
    splitter = RecursiveCharacterTextSplitter.from_huggingface_tokenizer(
        model.tokenizer, chunk_size=240, chunk_overlap=32, separators=["\n\n", "\n", "。", ". ", " ", ""]
    )
    begun = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    files = sorted(Path(sys.argv[2]).iterdir())
    texts = splitter.create_documents([f.read_text(encoding="utf-8") for f in files])
    FAISS.from_documents(texts, embeddings)
    seconds = sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) - begun
    tokens = sum(len(model.tokenizer.encode(document.page_content)) for document in texts)
    names = ("sentence-transformers", "langchain-text-splitters", "langchain-community", "faiss-cpu", "torch")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    print(json.dumps({"chunks": len(texts), "tokens": tokens, "seconds": seconds, "versions": versions}))


if __name__ == "__main__":
    main()
