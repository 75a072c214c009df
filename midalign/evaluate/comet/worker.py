"""Process that scores segments with COMET. The Python of COMET's environment runs it, without midalign.

    python worker.py MODEL

MODEL is a checkpoint file, its folder or a hub id. The first line of output is {"digest", "version"} or
{"error"}. Each line of input, [[source, hypothesis, reference], ...], is then answered by one line,
[score, ...] or {"error"}, until the input ends.
"""

import hashlib
import importlib.metadata
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any


class CometWorkerError(Exception):
    """An error that the user can fix."""


def find_checkpoint(model: str) -> Path:
    """Return the checkpoint file. Its hparams.yaml is one folder up, where COMET writes it."""
    path = Path(model).expanduser()
    if path.is_dir():
        files = sorted(path.glob("checkpoints/*.ckpt"))
        if len(files) != 1:
            raise CometWorkerError(
                f"{path} has {len(files)} files checkpoints/*.ckpt, expected one. Give the file"
            )
        path = files[0]
    elif not path.is_file():
        path = download_checkpoint(model)
    hparams = path.absolute().parents[1] / "hparams.yaml"
    if not hparams.is_file():
        raise CometWorkerError(f"{path} is no COMET checkpoint: {hparams} is missing")
    return path


def download_checkpoint(model: str) -> Path:
    """Return the checkpoint of a hub id, from the hub's cache or the hub."""
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise CometWorkerError(
            f"No COMET model {model!r}: neither a checkpoint file nor a folder here, nor a hub id such as "
            "Unbabel/wmt22-comet-da"
        )
    from comet import download_model  # type: ignore[import-not-found]
    from huggingface_hub.constants import HF_HUB_CACHE

    try:
        return Path(download_model(model))
    except KeyError as error:  # COMET's own, which hides the error of the hub
        reason: BaseException = error
        while reason.__context__ is not None:
            reason = reason.__context__
        raise CometWorkerError(
            f"No COMET model {model!r}: there is no such file or folder, it is not in the hub's cache "
            f"({HF_HUB_CACHE}), and it could not be downloaded: {_line(reason)}"
        ) from None


def checkpoint_digest(path: Path) -> str:
    """Return the sha256 of the checkpoint and its hyperparameters."""
    digest = hashlib.sha256((path.absolute().parents[1] / "hparams.yaml").read_bytes())
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def load_checkpoint(path: Path) -> Any:
    """Load the model, on a GPU if there is one."""
    import torch
    from comet import load_from_checkpoint

    try:
        model = load_from_checkpoint(str(path))
    except Exception as error:  # a truncated checkpoint, or a missing encoder
        raise CometWorkerError(f"{path} cannot be loaded: {_line(error)}") from None
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def score_batch(model: Any, segments: "list[list[str]]") -> "list[float]":
    """Score one batch by the steps of COMET's own `predict`."""
    import torch

    samples = [dict(zip(("src", "mt", "ref"), segment, strict=True)) for segment in segments]
    try:
        with torch.inference_mode():
            batch = model.transfer_batch_to_device(model.prepare_for_inference(samples), model.device, 0)
            scores: list[float] = model.predict_step(batch)["scores"].tolist()
    except Exception as error:  # often out of memory
        raise CometWorkerError(f"COMET could not score {len(segments)} segments: {_line(error)}") from None
    return scores


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def main() -> None:
    """Answer requests on standard input until it ends."""
    # COMET and its dependencies print to standard output. Answers go to a copy of it, the rest to stderr.
    logging.disable(logging.INFO)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches this process too, but its parent ends it
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        path = find_checkpoint(sys.argv[1])
        version = importlib.metadata.version("unbabel-comet")
        print(json.dumps({"digest": checkpoint_digest(path), "version": version}), file=answers, flush=True)
        model = None
        for line in sys.stdin.buffer:
            model = model or load_checkpoint(path)
            print(json.dumps(score_batch(model, json.loads(line))), file=answers, flush=True)
    except CometWorkerError as refusal:
        print(json.dumps({"error": str(refusal)}), file=answers, flush=True)
    except BrokenPipeError:
        os._exit(1)  # the parent is gone, so flushing at exit would fail


if __name__ == "__main__":
    main()
