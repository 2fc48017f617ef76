"""Every verb as a function: what `import ninestory as ns` offers beside `ns.load`.

The command line calls these very functions and only prints what they return. Long lists know how to show
themselves in a notebook. Errors are `ninestory.NinestoryError`s with a `hint`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ninestory.core.config import RuntimeSettings, load_settings
from ninestory.core.errors import InvalidRequest, Unsupported
from ninestory.core.paths import Home
from ninestory.core.progress import Progress
from ninestory.core.progress_bar import ProgressBar
from ninestory.models.catalogue import System, find, load_catalogue
from ninestory.models.doctor import diagnose
from ninestory.models.finding import Finding
from ninestory.models.plan import Plan
from ninestory.models.resolve import resolve
from ninestory.models.resolved import ResolvedModel
from ninestory.models.store import InstalledModel, import_path, list_installed
from ninestory.models.store import remove as remove_installed
from ninestory.models.verify import VerifyReport
from ninestory.models.verify import verify as verify_files
from ninestory.runtimes.plan import plans_for

if TYPE_CHECKING:
    from ninestory.floors.chat import ChatModel
    from ninestory.floors.finetuning import FineTuningRecipe
    from ninestory.models.convert.to_gguf import GgufReport

T = TypeVar("T")


class Rows(list[T]):
    """A list of records that a notebook shows as a table of its plain fields."""

    def _repr_markdown_(self) -> str:
        if not self:
            return "*(nothing)*"
        values = [_plain_fields(row) for row in self]
        columns = list(values[0])
        lines = [columns, ["---"] * len(columns), *([str(v[c]) for c in columns] for v in values)]
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _plain_fields(row: object) -> dict[str, object]:
    """The fields of a dataclass that fit into a table's cell."""
    fields = {f.name: getattr(row, f.name) for f in dataclasses.fields(row)}  # type: ignore[arg-type]
    return {name: value for name, value in fields.items() if isinstance(value, (str, int, float, Path))}


def load(reference: str, *, home: Home | None = None, **options: Any) -> ChatModel:
    """Load a model into this process.

    Args:
        reference: any model reference, e.g. "starter:smollm2-135m-instruct", "./model.gguf", "openai:gpt-4o-mini".
        home: where models lie; default NINESTORY_HOME.
        options: fields of `RuntimeSettings`, e.g. context=2048, threads=2.

    Raises:
        NotFound: the model is not on this machine; the hint is the command that brings it.
    """
    from ninestory.floors.chat import ChatModel
    from ninestory.runtimes.load import load_engine

    settings = load_settings().settings.runtime
    try:
        settings = dataclasses.replace(settings, **options)
    except TypeError as error:
        known = ", ".join(f.name for f in dataclasses.fields(RuntimeSettings))
        raise InvalidRequest(f"load() got an unknown option: {error}. Known are: {known}.") from None
    return ChatModel(load_engine(resolve(reference, home or Home.default()), settings))


def list_systems(floor: int | None = None) -> Rows[System]:
    """The catalogue, floor by floor.

    Args:
        floor: 1 to 9; all of them when left out.

    >>> import ninestory as ns
    >>> "chatglm-6b" in [system.name for system in ns.list_systems(floor=1)]
    True
    """
    systems = [s for s in load_catalogue().values() if floor in (None, s.floor)]
    return Rows(sorted(systems, key=lambda s: (s.floor, s.name)))


def show(name: str) -> System:
    """One system of the catalogue: variants, sizes, licence, pitfalls and their cures.

    Raises:
        NotFound: no such name; the hint has the nearest.

    >>> import ninestory as ns
    >>> ns.show("chatglm-6b").title.en
    'ChatGLM-6B'
    """
    return find(name)


def list_models(*, home: Home | None = None) -> Rows[InstalledModel]:
    """Models on this machine."""
    return Rows(list_installed(home or Home.default()))


def pull(reference: str, *, progress: Progress | None = None, home: Home | None = None) -> ResolvedModel:
    """Fetch a model; the only function here that uses the network. It is a job: an interrupted one can be resumed.

    Args:
        reference: a catalogue variant, "hf:org/name:Q4_K_M", "ms:org/name" or "starter:name".
        progress: who watches; a bar on the terminal or in the notebook when left out.

    Raises:
        NotFound, Unauthorized, Forbidden: what the hub says. Damaged: a wrong checksum. DiskFull: no room.
    """
    if progress is None:
        with ProgressBar() as bar:
            return pull(reference, progress=bar, home=home)
    from ninestory.models.pull import check_pullable
    from ninestory.models.reference import parse_reference

    where = (home or Home.default()).ensure()
    name = str(check_pullable(parse_reference(reference)))
    _run_job("pull", {"model": name}, f"The pull of {name}", progress, where)
    return resolve(name, where)


def tune(
    recipe: FineTuningRecipe, *, force: bool = False, progress: Progress | None = None, home: Home | None = None
) -> dict[str, Any]:
    """Tune a model by a recipe and compare it with its base; a job, so an interrupted one can be resumed.

    Returns: `TuningOutcome.as_dict()` of floors/finetuning: the tuned model's reference, both losses, verdict, report.

    Raises:
        DoesNotFit: the memory plan says so, and not `force`. Diverged: the loss is NaN or infinite.
    """
    if progress is None:
        with ProgressBar() as bar:
            return tune(recipe, force=force, progress=bar, home=home)
    where = (home or Home.default()).ensure()
    resolve(recipe.model.name, where)  # a name that is wrong leaves no failed job behind
    params = {"recipe": dataclasses.asdict(recipe), "force": force}
    result = _run_job("tune", params, "The run", progress, where)
    return result or {}


def _run_job(kind: str, params: dict[str, Any], what: str, progress: Progress, home: Home) -> dict[str, Any] | None:
    """Run a new job here; its result. Its failure is raised as it was."""
    from ninestory.core.errors import Cancelled, from_dict
    from ninestory.core.state import State
    from ninestory.jobs.handlers import load_job_handlers
    from ninestory.jobs.runner import JobRunner, context_maker
    from ninestory.jobs.store import JobStore
    from ninestory.runtimes.load import LocalEngines

    settings = load_settings().settings
    with LocalEngines(home, settings.runtime) as engines:
        state = State(home.state_db)
        runner = JobRunner(JobStore(state), load_job_handlers(), context_maker(home, settings, engines, state))
        job = runner.run_new(kind, params, progress)
    if job.error:
        raise from_dict(job.error)
    if job.state == "cancelled":
        raise Cancelled(
            f"{what} was cancelled.",
            hint=f"'ninestory jobs resume {job.id}' or the same command goes on.",
            hint_zh=f"运行 ninestory jobs resume {job.id} 或原命令即可继续。",
        )
    return job.result


def import_model(path: str | Path, name: str, *, home: Home | None = None) -> InstalledModel:
    """Take a file or checkpoint folder into the store as `name` ("system:variant" or "hf:org/name")."""
    return import_path(home or Home.default(), Path(path), name)


def convert_to_gguf(
    model: str | Path,
    out: str | Path,
    quant: str = "Q8_0",
    *,
    tokenizer: str | Path | None = None,
    chat_template: str = "",
    check: bool | None = None,
    progress: Progress | None = None,
    home: Home | None = None,
) -> GgufReport:
    """Write a checkpoint as one GGUF file for llama.cpp, the fast runtime on a processor, with tens of MB of memory.

    Args:
        model: checkpoint folder, RWKV's `.pth`, or a reference to an installed model.
        quant: "Q8_0", "F16", "F32", "Q6_K", "Q5_K", "Q4_K", "IQ4_NL", "Q4_0", …
        tokenizer: folder of the tokenizer, where it lies elsewhere. chat_template: Jinja in place of the checkpoint's.
        check: compare the logits with the checkpoint's; None does so where torch is installed and both fit.
        progress: who watches; a bar on the terminal or in the notebook when left out.

    Raises:
        Unsupported: a family or tokenizer that llama.cpp cannot run; by name. Damaged: unsound files, or logits that
        differ by more than rounding. Conflict: `out` exists. DiskFull: no room; the same call goes on later.
    """
    if progress is None:
        with ProgressBar() as bar:
            return convert_to_gguf(
                model,
                out,
                quant,
                tokenizer=tokenizer,
                chat_template=chat_template,
                check=check,
                progress=bar,
                home=home,
            )
    from ninestory.models.convert.to_gguf import convert_to_gguf as convert
    from ninestory.runtimes.logit_check import checker_for

    source = Path(model).expanduser()
    if not source.exists():
        source = resolve(str(model), home or Home.default()).path or source
    compares, _ = checker_for(source, check, home or Home.default())
    words = Path(tokenizer) if tokenizer else None
    return convert(
        source,
        Path(out),
        quant.upper(),
        tokenizer=words,
        chat_template=chat_template,
        check=compares,
        progress=progress,
    )


def remove(reference: str, *, home: Home | None = None) -> InstalledModel:
    """Delete a model's files; returns what was removed."""
    return remove_installed(home or Home.default(), reference)


def verify(model: str | Path, *, home: Home | None = None) -> VerifyReport:
    """Check a model's files: every tensor named, typed and in bounds. Nothing of them is run.

    Args:
        model: a file, a checkpoint folder or a model reference.

    Raises:
        Damaged: the first fault. NotFound: nothing is there. Unsupported: a remote model has no files.
    """
    path = Path(model).expanduser()
    if not path.exists():
        found = resolve(str(model), home or Home.default()).path
        if found is None:
            raise Unsupported(
                f"{model} is a remote model: there are no files to check.",
                hint="Name a model on this machine; 'ninestory ls' lists them.",
                hint_zh="请指定本机上的模型；ninestory ls 可列出它们。",
            )
        path = found
    onnx = path / "model.onnx"
    if onnx.is_file():  # built here from a starter whose checksum was compared
        return VerifyReport(onnx, [onnx.name], 0, onnx.stat().st_size, {}, ["assembled here from a verified starter"])
    return verify_files(path)


def plan(
    reference: str, *, context: int | None = None, concurrency: int | None = None, home: Home | None = None
) -> Rows[Plan]:
    """Predicted memory of a model and of its sister variants, the one asked for first.

    Args:
        reference: any model reference; a catalogue name need not be installed.
        context: tokens of one conversation. concurrency: requests decoded together.

    >>> import ninestory as ns
    >>> small, large = (ns.plan("vicuna:7b-v1.5", context=n)[0] for n in (512, 2048))
    >>> small.cache_bytes < large.cache_bytes
    True
    """
    flags = {"runtime.context": context, "runtime.slots": concurrency}
    return Rows(plans_for(reference, load_settings(flags).settings.runtime, home or Home.default()))


def doctor(path: str | Path | None = None, *, home: Home | None = None) -> list[Finding]:
    """What is right and wrong with this machine, or with the checkpoint at `path`, and the cure in both languages.

    >>> import ninestory as ns
    >>> {finding.level for finding in ns.doctor()} <= {"ok", "note", "problem"}
    True
    """
    return diagnose(Path(path) if path is not None else None, home or Home.default())


def serve(
    *,
    host: str | None = None,
    port: int | None = None,
    preload: Sequence[str] | None = None,
    home: Home | None = None,
    announce: Callable[[str], None] = print,
) -> None:
    """Run the server and the page in this process until Ctrl-C or SIGTERM; other settings come from the files.

    Raises:
        InvalidRequest: a public address without a key. Conflict: this home has a running server.
    """
    from ninestory.serving.run import serve as run

    flags = {"serve.host": host, "serve.port": port, "serve.preload": list(preload) if preload else None}
    run(load_settings(flags), home or Home.default(), announce)
