"""Measured pair retrieval: states of the right model, in the right order."""

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from midalign.align.retrieval import pair_accuracy
from midalign.evaluate import live, retrieval
from midalign.evaluate.retrieval import Pairs

FOREIGN = (
    "weck mich um neun",
    "wie spät ist es",
    "spiel musik von bach",
    "licht aus",
    "guten morgen, was gibt es",
)
ENGLISH = (
    "wake me at nine",
    "what time is it",
    "play music by bach",
    "lights off",
    "good morning, what is new",
)


def test_accuracy_is_that_of_states_taken_one_by_one(base: Path, adapter: Path) -> None:
    """hidden_states of transformers, one sentence a time, mean without BOS: unpadded, unsorted."""
    import peft

    pairs = {"de": Pairs(tuple("01234"), FOREIGN, ENGLISH)}
    model, tokenizer = live.load(str(base), {"a": adapter}, "float32")
    alone = AutoModelForCausalLM.from_pretrained(base)
    for name in (None, "a"):
        if name:
            alone = peft.PeftModel.from_pretrained(alone, adapter)

        def states(sentences: tuple[str, ...], alone=alone) -> torch.Tensor:
            rows = []
            for sentence in sentences:
                inputs = AutoTokenizer.from_pretrained(base)(sentence, return_tensors="pt")
                with torch.no_grad():
                    hidden = alone(input_ids=inputs["input_ids"], output_hidden_states=True).hidden_states
                rows.append(hidden[3][0, 1:].mean(0))
            return torch.stack(rows)

        expected = pair_accuracy(states(FOREIGN), states(ENGLISH), centred=True)
        assert retrieval.measure(model, tokenizer, name, pairs, 3) == {"de": pytest.approx(expected)}
        (ours,) = retrieval.pooled(model, tokenizer, FOREIGN, [3], rows=2)
        assert torch.allclose(ours, states(FOREIGN), atol=1e-4)


def test_sentences_that_are_equal_find_each_other(base: Path) -> None:
    model, tokenizer = live.load(str(base), {}, "float32")
    same = {"xx": Pairs(tuple("01234"), ENGLISH, ENGLISH)}
    assert retrieval.measure(model, tokenizer, None, same, 2) == {"xx": 1.0}


def test_bits_and_characters_are_cut_at_the_context_alike(base: Path) -> None:
    """By transformers' own loss of each sentence, and the characters of the tokens that it is over."""
    model, tokenizer = live.load(str(base), {}, "float32")
    model.config.max_position_embeddings = 16
    pairs = {"de": Pairs(("0", "1"), (FOREIGN[0], " ".join(FOREIGN)), ENGLISH[:2])}
    nats, characters = 0.0, 0
    for sentence in pairs["de"].foreign:
        ids = tokenizer(sentence)["input_ids"][:16]
        batch = torch.tensor([ids])
        with torch.no_grad():
            nats += float(model(input_ids=batch, labels=batch).loss) * (len(ids) - 1)
        characters += len(tokenizer.decode(ids, skip_special_tokens=True))
    assert characters < sum(map(len, pairs["de"].foreign))
    found = retrieval.bits_per_character(model, tokenizer, None, pairs)["de"]
    assert found == pytest.approx(nats / math.log(2) / characters, rel=1e-4)
