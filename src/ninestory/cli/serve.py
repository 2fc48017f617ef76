"""`ninestory serve`."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 picks a free one.")] = None,
    api_key: Annotated[str | None, typer.Option(help="Key that clients must send (better: --api-key-file).")] = None,
    api_key_file: Annotated[str | None, typer.Option(help="File that holds the key.")] = None,
    preload: Annotated[list[str] | None, typer.Option(help="Model to load at start; may be repeated.")] = None,
    keep_alive: Annotated[float | None, typer.Option(help="Seconds an idle model stays loaded; -1 for ever.")] = None,
    allowed_hosts: Annotated[list[str] | None, typer.Option(help="Further Host name; may be repeated.")] = None,
    allowed_origins: Annotated[list[str] | None, typer.Option(help="Further browser origin; may be repeated.")] = None,
    template: Annotated[str | None, typer.Option(help="Prompt template of every chat model of this server.")] = None,
    context: Annotated[int | None, typer.Option(help="Tokens of one conversation.")] = None,
    slots: Annotated[int | None, typer.Option(help="Requests decoded together.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of one model.")] = None,
    fast: Annotated[
        bool | None, typer.Option("--fast", help="torch on a CPU: fastest linears, bits may depend on neighbours.")
    ] = None,
    start_timeout: Annotated[float | None, typer.Option(help="Seconds a model may take to load.")] = None,
) -> None:
    """Run the server and the page until Ctrl-C or SIGTERM."""
    from ninestory.core.config import load_settings
    from ninestory.core.logs import set_up_logs
    from ninestory.core.paths import Home
    from ninestory.serving.run import serve as run

    flags = {
        "serve.host": host,
        "serve.port": port,
        "serve.api_key": api_key,
        "serve.api_key_file": api_key_file,
        "serve.preload": preload,
        "serve.keep_alive": keep_alive,
        "serve.allowed_hosts": allowed_hosts,
        "serve.allowed_origins": allowed_origins,
        "serve.start_timeout": start_timeout,
        "runtime.template": template,
        "runtime.context": context,
        "runtime.slots": slots,
        "runtime.threads": threads,
        "runtime.fast": fast,
    }
    loaded = load_settings(flags)
    set_up_logs(loaded.settings.log_level, loaded.settings.log_json)
    run(loaded, Home.default(), announce=lambda line: print(line, flush=True))
