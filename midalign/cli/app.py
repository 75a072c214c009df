"""The `midalign` command and its subcommands."""

import midalign
from midalign.cli import (
    analyze,
    comet,
    compare,
    data,
    doctor,
    leaderboard,
    leaderboard_check,
    leaderboard_export,
    leaderboard_missing,
    leaderboard_publish,
    leaderboard_review,
    leaderboard_submit,
    leaderboard_verify,
    merge,
    push,
    score,
    shipped_files,
    sweep,
    tasks_dir,
    train,
)
from midalign.cli import eval as eval_command
from midalign.cli.help import add_command, new_app

RUN = "Train and score"
COMPARE = "Compare and combine"
LOOK_UP = "Look up"
SET_UP = "Set up and check"

app = new_app(
    midalign.__doc__ or "",
    """\
midalign doctor
midalign train mini updates=60 'seeds=[1]' evaluation.limit=20 output=first
midalign leaderboard build --results first/results --output board
""",
    completion=True,
)
add_command(app, "train", section=RUN, examples=train.EXAMPLES)(train.train)
add_command(app, "eval", section=RUN, examples=eval_command.EXAMPLES)(eval_command.evaluate)
add_command(app, "score", section=RUN, examples=score.EXAMPLES)(score.score)
_ = (
    leaderboard_check,
    leaderboard_export,
    leaderboard_verify,
    leaderboard_missing,
    leaderboard_publish,
    leaderboard_submit,
    leaderboard_review,
)  # they add their commands to the group
app.add_typer(leaderboard.app, name="leaderboard", rich_help_panel=COMPARE)
add_command(app, "compare", section=COMPARE, examples=compare.EXAMPLES)(compare.compare)
add_command(app, "sweep", section=COMPARE, examples=sweep.EXAMPLES)(sweep.sweep)
add_command(app, "merge", section=COMPARE, examples=merge.EXAMPLES)(merge.merge)
add_command(app, "push", section=COMPARE, examples=push.EXAMPLES)(push.push)
add_command(app, "analyze", section=COMPARE, examples=analyze.EXAMPLES)(analyze.analyze)
app.add_typer(data.app, name="data", rich_help_panel=LOOK_UP)
for kind in shipped_files.KINDS:
    app.add_typer(shipped_files.new_group(kind), name=kind, rich_help_panel=LOOK_UP)
add_command(app, "doctor", section=SET_UP, examples=doctor.EXAMPLES)(doctor.doctor)
app.add_typer(comet.app, name="comet", rich_help_panel=SET_UP)
add_command(app, "tasks-dir", section=SET_UP, examples=tasks_dir.EXAMPLES)(tasks_dir.tasks_dir)


@app.callback()
def main() -> None:
    """Keep typer from dropping the name of a group's only command."""
