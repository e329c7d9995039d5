"""``ssdiff eval WHAT``; one file a command."""

import typer

from ssdiff.cli.eval import cost, distances, report, restoration, scale_space, schedule

app = typer.Typer(
    help="Measure models, processes and schedules.",
    no_args_is_help=True,
    add_completion=False,
)
app.command("cost")(cost.cost)
app.command("scale-space")(scale_space.scale_space)
app.command("report")(report.report)
app.command("schedule")(schedule.schedule)
app.command("restore")(restoration.restore)
for _name, _summary in distances.SUMMARIES.items():
    app.command(_name, help=_summary)(distances.evaluate_images)
