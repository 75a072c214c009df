"""The command line: one module per command, which parses, calls the library and prints."""

from midalign.cli.exits import run_command


def main() -> None:
    """Run `midalign`."""

    def midalign() -> None:
        from midalign.cli.app import app

        app(prog_name="midalign")

    run_command(midalign)
