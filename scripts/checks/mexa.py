"""MEXA of `midalign analyze` beside its authors' published code, on the same states.

git clone https://github.com/cisnlp/MEXA; python scripts/checks/mexa.py MEXA [NTREX]

Their script reads files that are written here in its format: random states with ties and near-ties, and with
NTREX (its archive or folder), states of the bundled base of some languages after every block. Printed is the
largest difference.
"""

import json
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from midalign import bases
from midalign.align.measures import measure_retrieval
from midalign.align.trunk import depth
from midalign.analyze import states
from midalign.data import ntrex
from midalign.evaluate import live, retrieval

SENTENCES = 100
LANGUAGES = ("de", "es", "hi", "sw", "tr", "ja")
KINDS = ("apart", "equal", "scaled", *(f"near by {step:g}" for step in (1e-4, 1e-5, 1e-6, 1e-7)))


def random_states(seed: int) -> dict[str, torch.Tensor]:
    """(layers, sentences, hidden) of English and of a language for each of KINDS, near English.

    Some English sentences are said twice; a third of every other language's, but of `apart`, are those before
    them: equal, twice as long, or nearly equal.
    The layers differ in what all sentences share, which makes cosines nearly 1.
    """
    generator = torch.Generator().manual_seed(seed)
    shared = torch.tensor([0.0, 1.0, 10.0, 100.0]).reshape(-1, 1, 1)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    english = noise(4, SENTENCES, 64) + shared
    english[:, 2::9] = english[:, 1:-1:9]
    found = {"en": english}
    for kind in KINDS:
        own = english + 0.7 * noise(4, SENTENCES, 64)
        if kind != "apart":
            own[:, 1::3] = own[:, 0:-1:3]
        if kind == "scaled":
            own[:, 1::3] *= 2
        if kind.startswith("near"):
            copies = own[:, 1::3]
            copies += float(kind.split()[-1]) * noise(*copies.shape)
        found[kind] = own
    return found


def base_states() -> dict[str, torch.Tensor]:
    """(layers, sentences, hidden) of NTREX's sentences in the bundled base, some of them said twice."""
    texts = states.parallel_sentences("ntrex", LANGUAGES, SENTENCES)
    model, tokenizer = live.load(bases.resolve("mini"), {}, "float32")
    found = {}
    for code, sentences in texts.items():
        twice = [*sentences[:-10], *sentences[:10]]
        found[code] = retrieval.pooled(model, tokenizer, twice, range(depth(model) + 1))
    return found


def theirs(checkout: Path, given: dict[str, torch.Tensor]) -> dict[str, list[float]]:
    """By language a score for each layer, English being the pivot."""
    with tempfile.TemporaryDirectory() as scratch:
        for code, layers in given.items():
            content = {
                number: [{"id": i, "embd_weighted": state.numpy()} for i, state in enumerate(layer, start=1)]
                for number, layer in enumerate(layers)
            }
            Path(scratch, f"{code}.pkl").write_bytes(pickle.dumps(content))
        command = [sys.executable, str(checkout / "compute_mexa.py"), "--pivot", "en", "--num_sents"]
        command += [str(SENTENCES), "--embedding_path", scratch, "--save_path", f"{scratch}/scores"]
        subprocess.run(command, check=True, env={**os.environ, "TQDM_DISABLE": "1"})
        scores = {code: json.loads(Path(scratch, "scores", f"{code}.json").read_text()) for code in given}
    return {code: list(by_layer.values()) for code, by_layer in scores.items()}


def ours(given: dict[str, torch.Tensor]) -> dict[str, list[float]]:
    """The same, both ways of asking: English against all others at once, and each against English."""
    codes = list(given)
    layers = torch.stack(list(given.values()), dim=1)
    found = [measure_retrieval(layer[0], layer)["mexa"] for layer in layers]
    back = [torch.cat([measure_retrieval(own, layer[:1])["mexa"] for own in layer]) for layer in layers]
    assert all(torch.equal(*both) for both in zip(found, back, strict=True))
    return {code: [float(scores[i]) for scores in found] for i, code in enumerate(codes)}


def compare(name: str, checkout: Path, given: dict[str, torch.Tensor]) -> float:
    """Print and give the largest difference."""
    one, other = ours(given), theirs(checkout, given)
    differences = {
        code: max(abs(a - b) for a, b in zip(one[code], other[code], strict=True)) for code in given
    }
    scores = [score for own in other.values() for score in own]
    most = max(differences.values())
    print(
        f"{name}: {len(scores)} scores from {min(scores):.2f} to {max(scores):.2f}, "
        f"largest difference {most:.1e}, of {max(differences, key=lambda code: differences[code])}"
    )
    return most


def main(checkout: Path, archive: Path | None) -> None:
    """Compare and print; ends with an error where scores differ."""
    most = max(compare(f"random states {seed}", checkout, random_states(seed)) for seed in range(3))
    if archive:
        with tempfile.TemporaryDirectory() as cache:
            os.environ["MIDALIGN_CACHE"] = cache
            ntrex.add(archive)
            most = max(most, compare("mini base on NTREX", checkout, base_states()))
    if most > 1e-6:
        sys.exit("the scores are not the same")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
