"""Commands of the gateway: serve."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from coterie.cli.base import PoolArgument, app


@app.command()
def serve(
    pool: PoolArgument,
    router: Annotated[
        Path | None, typer.Option(help="Fitted router; default: [router] of the pool file.")
    ] = None,
    kind: Annotated[str | None, typer.Option(help="module:Attr of a router of your own.")] = None,
    host: Annotated[
        str | None, typer.Option(help="Address to bind; wider than this machine needs a key.")
    ] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0 takes a free one.")] = None,
    store: Annotated[
        str | None, typer.Option(help="SQLite file or postgresql:// address of keys and log.")
    ] = None,
) -> None:
    """Serve the pool behind an OpenAI-compatible API, with its dashboard at /.

    The model "auto" is chosen by the router, "recruit:3" asks three experts, and every expert has
    its own name. SIGTERM drains, SIGHUP reads the configuration again.

    Example: coterie serve embedded --router router --port 8000
    """
    import uvloop

    from coterie.gateway.building import build
    from coterie.gateway.server import return_memory
    from coterie.gateway.server import serve as run

    return_memory()
    given = {"host": host, "port": port, "store": store}
    changes = {name: value for name, value in given.items() if value is not None}
    gateway = build(pool, router, kind, **changes)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def ready(at: int) -> None:
        bound = gateway.settings.host
        shown = f"[{bound}]" if ":" in bound else bound
        say(
            f"serving {gateway.pool.name}: http://{shown}:{at}/v1 (dashboard: http://{shown}:{at}/)"
        )
        models = gateway.live.services.routing.models()
        say(f"models: {', '.join(models[:8])}{', ...' if len(models) > 8 else ''}")
        if gateway.live.services.routing.router is None:
            say(
                "no router is fitted, so only experts' own names are models; see coterie fit --help"
            )

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(gateway, say, ready))


config_app = typer.Typer(
    help="Check a pool file, and print what it may hold.", no_args_is_help=True
)
app.add_typer(config_app, name="config")


@config_app.command("check")
def check(pool: PoolArgument) -> None:
    """Read a pool file and make everything in it, without asking or loading anybody.

    Example: coterie config check pool.toml
    """
    from coterie.config import read_config

    config = read_config(pool)
    made = config.pool()
    config.policy()
    config.composition(made)
    print(f"{config.path.name}: {len(made.experts)} experts, policy {config.settings.policy.name}")


@config_app.command("show")
def show_config(pool: PoolArgument) -> None:
    """Print the whole configuration with its defaults, as JSON.

    Example: coterie config show pool.toml
    """
    from coterie.config import read_config

    print(json.dumps(read_config(pool).settings.model_dump(mode="json"), indent=1))


@config_app.command("schema")
def schema() -> None:
    """Print the JSON Schema of pool files, for editors.

    Example: coterie config schema > coterie.schema.json
    """
    from coterie.settings import Settings

    print(json.dumps(Settings.model_json_schema(), indent=1))
