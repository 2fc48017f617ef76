"""Floor 2: answers from local documents, with citations (langchain-ChatGLM's trade).

    base = create(home, "manuals")
    report = IngestReport(); add_paths(base, [Path("docs")], report)
    ingest(base, Embedder(engine), progress, report)
    hits = search(ChunkReader(base), question, embedder.query(question))
    prepared = prepare(question, hits, thresholds=base.thresholds)

Names are imported on first use: the gateway takes the folder's side of it without LanceDB.
"""
