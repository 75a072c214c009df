"""Loss curves of a tiny model against committed ones: a change of numerics cannot pass unseen.

Each file in `curves/` holds the environment that it was written in. Where a change is meant, write them anew
and say in the commit why: `python tests/train/test_invariant.py`.
"""

import json
import tempfile
from pathlib import Path

import pytest
from test_trainer import trainer_of
from transformers import AutoTokenizer, TrainerCallback

from midalign import adapter, bases

CURVES = Path(__file__).parent / "curves"
FORMS = {
    "default": (),
    "paper": (
        "align.symmetric=false",
        "align.centred=false",
        "align.include_bos=true",
        "align.preservation=0.0",
        "align.copy_samples=0",
        "align.alternate=micro",
        "align.cycles=2",
    ),
    "alternating": ("align.alternate=update", "align.centred=running", "align.text_samples=2"),
    "several-layers": ("align.layer=[1, 3]", "align.objective=squared", "align.rise=0.5"),
}


class Losses(TrainerCallback):
    """The losses of every update."""

    def __init__(self, trainer):
        self.trainer, self.curve = trainer, []

    def on_step_end(self, *_, **__):
        self.curve.append(self.trainer.take_losses())


def curve(form):
    tokenizer = AutoTokenizer.from_pretrained(bases.resolve("mini"))
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(tokenizer, folder, FORMS[form], updates=8)
        losses = Losses(trainer)
        trainer.add_callback(losses)
        trainer.train()
    return losses.curve


@pytest.mark.parametrize("form", FORMS)
def test_losses_are_those_of_before(form):
    committed = json.loads((CURVES / f"{form}.json").read_text())
    for update, (found, expected) in enumerate(zip(curve(form), committed["losses"], strict=True), 1):
        assert found.keys() == expected.keys()
        for name, loss in expected.items():
            assert found[name] == pytest.approx(loss, rel=1e-4), f"{name} loss of update {update}"


if __name__ == "__main__":
    for name in FORMS:
        content = {"environment": adapter.package_versions(), "losses": curve(name)}
        (CURVES / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
