"""``ssdiff eval WHAT``; one file a command."""

import typer

app = typer.Typer(
    help="Measure models, processes and schedules.",
    no_args_is_help=True,
    add_completion=False,
)
