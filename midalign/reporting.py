"""The default of functions that report their progress."""


def ignore_progress(*progress: object) -> None:
    """Ignore a report of progress."""
