"""Warnings about failures of the plug-in, without which lm-eval continues."""


def warn(moment: str, error: Exception) -> None:
    """Log that the plug-in failed, and how to silence the message."""
    import logging

    logging.getLogger("midalign_lm_eval").warning(
        "midalign could not hook into lm-eval (%s): %s: %s. Its tasks and models may be missing here; "
        "MIDALIGN_NO_AUTOLOAD=1 silences this.",
        moment,
        type(error).__name__,
        error,
    )
