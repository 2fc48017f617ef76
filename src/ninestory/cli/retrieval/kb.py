"""`ninestory kb …`: knowledge bases on this machine. An ingest is a job: it can be watched, cancelled and resumed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ninestory.cli.client import DEFAULT, Server, running_server
from ninestory.cli.output import Json, print_json, print_table, size
from ninestory.cli.retrieval import kb_evaluate, kb_mcp, kb_server
from ninestory.cli.retrieval.knowledge import open_embedder, open_scorer, run_ingest
from ninestory.cli.retrieval.passages import print_hits, print_passages
from ninestory.core.errors import Conflict, InvalidRequest
from ninestory.core.paths import Home
from ninestory.core.reserve import DiskReserve

if TYPE_CHECKING:
    from ninestory.floors.retrieval import KnowledgeBase

app = typer.Typer(no_args_is_help=True, help="Knowledge bases: your documents, searchable and citable.")
Name = Annotated[str, typer.Argument(help="Name or id of a knowledge base.")]
_ADDRESSES = ("http://", "https://")
_WATCH_SECONDS = 2.0


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Name of the new knowledge base.")],
    model: Annotated[str, typer.Option(help="Embedding model; the starter's when left out.")] = "",
    server: Server = DEFAULT,
    as_json: Json = False,
) -> None:
    """Make an empty knowledge base."""
    if client := running_server(server):
        kb_server.create(client, name, model, as_json)
        return
    from ninestory.floors.retrieval import DEFAULT_MODEL, each_base
    from ninestory.floors.retrieval import create_base as make
    from ninestory.models.resolve import resolve

    home = Home.default().ensure()
    if any(base.name == name for base in each_base(home)):
        raise Conflict(
            f"There is a knowledge base {name!r} already.",
            hint="Choose another name, or add to that one.",
            hint_zh="请换一个名称，或向已有的知识库添加。",
            param="name",
        )
    if model:
        resolve(model, home)
    base = make(home, name, model=model or DEFAULT_MODEL)
    print_json(_summary(base)) if as_json else print(f"{name}: {base.id}, {base.model}")


@app.command()
def add(
    name: Name,
    paths: Annotated[list[str], typer.Argument(help="Files, folders (they are copied) and http(s) addresses.")],
    attribute: Annotated[
        list[str] | None, typer.Option("--attribute", help="KEY=VALUE kept with the files, for --only.")
    ] = None,
    server: Server = DEFAULT,
    as_json: Json = False,
) -> None:
    """Add copies of files, of a folder's files, or pages by their address. A file of the same name is replaced."""
    from ninestory.cli.retrieval.document_session import attributes_of
    from ninestory.floors.retrieval import IngestReport, add_page, add_paths

    attributes = attributes_of(attribute or [])
    if client := running_server(server):
        _refuse_of_a_server("an address", [path for path in paths if path.startswith(_ADDRESSES)])
        kb_server.add(client, name, [Path(path) for path in paths], attributes, as_json)
        return
    base, report = _open(name), IngestReport()
    for path in paths:
        if path.startswith(_ADDRESSES):
            add_page(base, path, report, attributes)
        else:
            add_paths(base, [Path(path)], report, attributes)
    _print_report(run_ingest(base, {"report": report.as_dict()}, quiet=as_json), as_json)


@app.command()
def sync(
    name: Name,
    folder: Annotated[Path | None, typer.Argument(help="Folder to follow; those synced before when left out.")] = None,
    model: Annotated[str, typer.Option(help="Embed everything again with this model.")] = "",
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Read and embed everything again.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Go on until Ctrl-C, whenever a file changes.")] = False,
    as_json: Json = False,
) -> None:
    """Make a knowledge base follow a folder: only changed files are read, removed ones go."""
    base = _open(name)
    folders = [str(folder)] if folder else base.get("folders", [])
    if rebuild or (model and model != base.model):
        base.begin_table(model or base.model)
    _print_report(run_ingest(base, {"folders": folders}, quiet=as_json), as_json)
    while watch:
        time.sleep(_WATCH_SECONDS)
        if _changed(base, folders):
            _print_report(run_ingest(base, {"folders": folders}, quiet=as_json), as_json)


@app.command("ls")
def ls(
    server: Server = DEFAULT,
    as_json: Json = False,
) -> None:
    """All knowledge bases."""
    if client := running_server(server):
        kb_server.ls(client, as_json)
        return
    from ninestory.floors.retrieval import each_base

    bases = [(base.get("created_at", 0.0), _summary(base)) for base in each_base(Home.default())]
    rows = [row for _, row in sorted(bases, key=lambda base: base[0])]
    if as_json:
        print_json(rows)
        return
    columns = ["name", "id", "files", "failed", "passages", "model"]
    print_table(columns, [[row[column] for column in columns] for row in rows])


@app.command()
def show(
    name: Name,
    file: Annotated[str, typer.Argument(help="A file's id or name: shows its passages.")] = "",
    server: Server = DEFAULT,
    as_json: Json = False,
) -> None:
    """The files of a knowledge base and what became of each, or the passages of one file."""
    if client := running_server(server):
        kb_server.show(client, name, file, as_json)
        return
    from ninestory.floors.retrieval import ChunkReader

    base = _open(name)
    if not file:
        files = [{**vars(f), "path": str(f.path)} for f in base.files()]
        if as_json:
            print_json({**_summary(base), "data": files})
            return
        rows = [[f["name"], f["status"], f["chunks"], size(f["bytes"]), _remark(f), f["id"]] for f in files]
        print_table(["file", "status", "passages", "size", "remark", "id"], rows)
        return
    file_id = next((f.id for f in base.files() if f.name == file), file)
    base.file(file_id)
    reader = ChunkReader(base)
    passages = reader.of_file(file_id) if reader.refresh() else []
    if as_json:
        print_json(passages)
        return
    print_passages(passages)


@app.command()
def rm(
    name: Name,
    file: Annotated[str, typer.Argument(help="Remove only this file (id or name).")] = "",
    server: Server = DEFAULT,
    as_json: Json = False,
) -> None:
    """Delete a knowledge base, or one file of it. Synced originals stay."""
    if client := running_server(server):
        kb_server.rm(client, name, file, as_json)
        return
    from ninestory.floors.retrieval import remove_base

    reserve = DiskReserve(Home.default().reserve)
    reserve.release_if_low()
    try:
        base = _open(name)
        if not file:
            remove_base(base)
            print_json({"id": base.id, "deleted": True}) if as_json else print(f"{name}: deleted")
            return
        base.remove_file(next((f.id for f in base.files() if f.name == file), file))
        _print_report(run_ingest(base, {}, quiet=as_json), as_json)
    finally:
        reserve.make()


@app.command()
def search(
    name: Name,
    question: Annotated[str, typer.Argument(help="What to look for.")],
    also: Annotated[list[str] | None, typer.Option("--also", help="One more knowledge base to search.")] = None,
    limit: Annotated[int, typer.Option(help="Passages shown.")] = 5,
    mode: Annotated[str, typer.Option(help="hybrid, vector or text.")] = "hybrid",
    neighbours: Annotated[int, typer.Option(help="Passages before and after each that are shown with it.")] = 0,
    only: Annotated[list[str] | None, typer.Option("--only", help="KEY=VALUE: only files with this attribute.")] = None,
    rerank: Annotated[str, typer.Option(help="late, or a reranker: judges the passages once more.")] = "",
    server: Server = DEFAULT,
    as_json: Json = False,
) -> None:
    """What is found for a question, and why; no chat model."""
    from ninestory.cli.retrieval.document_session import attribute_filter
    from ninestory.floors.retrieval import SearchOptions, accepted_by, language_of, lowest_thresholds, search_all

    if mode not in ("hybrid", "vector", "text") or not 1 <= limit <= 50 or not 0 <= neighbours <= 10:
        raise InvalidRequest(
            f"--mode {mode} --limit {limit} --neighbours {neighbours} cannot be.",
            hint="mode: hybrid, vector or text; limit: 1 to 50; neighbours: 0 to 10.",
            hint_zh="mode 为 hybrid、vector 或 text；limit 为 1–50；neighbours 为 0–10。",
        )
    filters = attribute_filter(only or [])
    if client := running_server(server):
        _refuse_of_a_server("--mode", [mode] if mode != "hybrid" else [])
        _refuse_of_a_server("--also", also or [])
        kb_server.search(client, name, question, limit, neighbours, rerank, filters, as_json)
        return
    bases = [_open(one) for one in (name, *(also or []))]
    options = SearchOptions(limit=limit, mode=mode, neighbours=neighbours)  # type: ignore[arg-type]
    with open_embedder(bases[0]) as embedder, open_scorer(rerank, embedder) as score:
        hits = search_all(bases, question, embedder.query(question), options, filters=filters, score=score)
    thresholds = lowest_thresholds(bases)
    threshold = thresholds[language_of(question)] if thresholds else None
    accepted = accepted_by(question, hits, threshold)
    if as_json:
        data = [hit.as_dict() for hit in hits]
        print_json({"threshold": threshold, "accepted_by": accepted, "data": data})
        return
    print_hits(hits, threshold, accepted)


@app.command("export")
def export(
    name: Name,
    path: Annotated[Path, typer.Argument(help="File to write, such as manuals.kb.tar.gz.")],
    as_json: Json = False,
) -> None:
    """Write a knowledge base to one file: documents added, passages and vectors."""
    from ninestory.core.progress_bar import ProgressBar
    from ninestory.floors.retrieval import export_base

    with ProgressBar(quiet=as_json, counts=True) as bar:
        export_base(_open(name), path, bar)
    nbytes = path.stat().st_size
    print_json({"path": str(path), "bytes": nbytes}) if as_json else print(f"{path}: {size(nbytes)}")


@app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(help="A file written by export.")],
    name: Annotated[str, typer.Option(help="Another name for it.")] = "",
    as_json: Json = False,
) -> None:
    """Take an exported knowledge base in."""
    from ninestory.floors.retrieval import import_base

    base = import_base(Home.default().ensure(), path, name)
    print_json(_summary(base)) if as_json else print(f"{base.name}: {base.id}")


@app.command()
def verify(name: Name, as_json: Json = False) -> None:
    """Check a knowledge base: every passage counted, offsets and vectors looked at, copies compared."""
    from ninestory.floors.retrieval import verify_base

    faults = verify_base(_open(name))
    if as_json:
        print_json({"sound": not faults, "faults": faults})
    else:
        print("\n".join(faults) or f"{name}: sound")
    if faults:
        raise typer.Exit(6)


@app.command()
def compact(name: Name, as_json: Json = False) -> None:
    """Index and pack a knowledge base, and drop versions nobody reads."""
    from ninestory.core.progress import Silent
    from ninestory.floors.retrieval import compact_base as pack

    pack(_open(name), Silent())
    show(name, as_json=as_json)


app.command()(kb_evaluate.evaluate)
app.command()(kb_mcp.mcp)


def _refuse_of_a_server(what: str, given: list[str]) -> None:
    """Raises InvalidRequest: something that the server's API does not take."""
    if given:
        raise InvalidRequest(
            f"A running server is not given {what}: {given[0]}.",
            hint="Leave it out, or work in this process, without --server.",
            hint_zh="请去掉它，或不带 --server 在本进程内运行。",
        )


def _open(name: str) -> KnowledgeBase:
    from ninestory.floors.retrieval import open_base

    return open_base(Home.default(), name)


def _print_report(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(report)
        return
    counts = [f"{report[key]} {key}" for key in ("indexed", "unchanged", "removed") if report[key]]
    print(", ".join(counts or ["nothing to do"]) + (f"; {report['chunks']} passages" if report["chunks"] else ""))
    for failure in report["failed"]:
        print(f"  failed: {failure['file']}: {failure['message']}")
    if report["skipped"]:
        print(f"  not read (unknown kind): {', '.join(report['skipped'][:10])}" + ("…" * (len(report["skipped"]) > 10)))


def _changed(base: KnowledgeBase, folders: list[str]) -> bool:
    """Whether a look at names, sizes and times finds anything that `sync` would take up."""
    from ninestory.floors.retrieval import changed_files

    return any(changed_files(base, Path(folder)) for folder in folders)


def _summary(base: KnowledgeBase) -> dict[str, Any]:
    counts = base.counts()
    files = sum(counts.get(status, 0) for status in ("pending", "written", "indexed", "failed", "cancelled"))
    return {
        "name": base.name,
        "id": base.id,
        "files": files,
        "failed": counts.get("failed", 0),
        "passages": counts["chunks"],
        "bytes": counts["bytes"],
        "model": base.model,
        "thresholds": base.thresholds,
        "folders": base.get("folders", []),
    }


def _remark(file: dict[str, Any]) -> str:
    return file["error"]["message"] if file["error"] else "; ".join(file["notes"])
