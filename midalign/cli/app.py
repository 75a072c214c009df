"""The `midalign` command and its subcommands."""

import typer

import midalign
from midalign.cli import analyze, comet, data, doctor, leaderboard, merge, score, sweep, tasks_dir, train
from midalign.cli import eval as eval_command

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command("doctor")(doctor.doctor)
app.command("tasks-dir")(tasks_dir.tasks_dir)
app.command("eval")(eval_command.evaluate)
app.command("score")(score.score)
app.command("train")(train.train)
app.command("analyze")(analyze.analyze)
app.command("merge")(merge.merge)
app.command("sweep")(sweep.sweep)
app.add_typer(comet.app, name="comet")
app.add_typer(data.app, name="data")
app.add_typer(leaderboard.app, name="leaderboard")


@app.callback(help=midalign.__doc__)
def main() -> None:
    """Without a callback, typer would drop the name of a single subcommand."""
