"""Explain errors of the Hugging Face hub."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from midalign.errors import MidalignError, first_line


@contextmanager
def explain_hub_errors(address: str) -> Iterator[None]:
    """Raise errors of the hub and of the connection to it as a MidalignError that says what to do.

    Other errors pass, such as those of local files.
    """
    from huggingface_hub import errors

    # Versions of the client use different HTTP libraries. The error of each is a base of the client's.
    bases = tuple(base for base in errors.HfHubHTTPError.__bases__ if base is not OSError)
    unreachable = cast("tuple[type[Exception], ...]", (*bases, errors.OfflineModeIsEnabled))
    try:
        yield
    except errors.HFValidationError as error:
        raise MidalignError(f"{first_line(error)} Expected --repository NAMESPACE/NAME") from error
    except errors.LocalTokenNotFoundError as error:
        raise MidalignError(
            f"{address}: not logged in to the Hugging Face hub. Log in (hf auth login, HF_TOKEN), then rerun "
            f"the same command"
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status == 412:
            raise MidalignError(
                f"{address} has changed since it was read, probably by another publication. Nothing was "
                f"overwritten. Rerun the same command"
            ) from error
        if status in (401, 403):
            remedy = "Log in with a token that may write (hf auth login, HF_TOKEN)"
        elif status == 429 or status >= 500:
            remedy = "Wait"
        else:
            remedy = "Check the name and the settings of the repository"
        message = first_line(error).rstrip(".")
        raise MidalignError(f"{address}: {message}. {remedy}, then rerun the same command") from error
    except unreachable as error:
        raise MidalignError(
            f"{address} cannot be reached: {first_line(error).rstrip('.')}. Check the connection, then rerun "
            f"the same command"
        ) from error
