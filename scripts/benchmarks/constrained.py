"""What constrained decoding costs on the mini base and the Hugging Face engine, in one process, in turn.

usage: python scripts/benchmarks/constrained.py [ITEMS [ROUNDS]]      default: 96 items, 5 rounds

Left to itself, free decoding says other things and ends at other times, which would be measured too. So it is
made to say, token by token, what the constrained run said: the same work, without grammars.
"""

import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from lm_eval.api.instance import Instance  # noqa: E402
from torch import Tensor  # noqa: E402

from midalign import bases  # noqa: E402
from midalign.data import mini  # noqa: E402
from midalign.evaluate import constrain  # noqa: E402
from midalign.evaluate.hf import MidalignHF  # noqa: E402
from midalign.families import slot  # noqa: E402

LANGUAGES = ("en", "hi", "ja", "ru", "tr", "zh")


def call_schema() -> dict[str, Any]:
    """An utterance as a function call, the form of the structured tasks' schemas."""
    pair = {
        "slot": {"type": "string", "enum": mini.labels("slot")},
        "value": {"type": "string", "minLength": 1},
    }
    closed = {"type": "object", "additionalProperties": False}
    argument = {**closed, "properties": pair, "required": list(pair)}
    call = {
        "name": {"type": "string", "enum": mini.labels("intent")},
        "arguments": {"type": "array", "items": argument},
    }
    return {**closed, "properties": call, "required": list(call)}


def requests(items: int, prompt: str) -> list[Instance]:
    """Documents of several languages in turn."""
    docs = [slot.dataset(source="mini", language=code)["test"] for code in LANGUAGES]
    settings = {"until": ["\n"], "max_gen_toks": 128}
    return [
        Instance(
            "generate_until",
            doc := docs[i % len(docs)][i // len(docs)],
            (f"Utterance: {doc['utterance']}\n{prompt}", settings),
            i,
            metadata=(f"midalign_mini_slot_{doc['language']}", i, 1),
        )
        for i in range(items)
    ]


class Replay:
    """Stands in for a compiler of grammars: rows say what was recorded."""

    def __init__(self, batches: list[dict[int, list[int]]]) -> None:
        self.batches = iter(batches)

    def constraints(self, grammars: Sequence[str]) -> "Replay":
        """The next batch."""
        self.said = next(self.batches)
        self.position = dict.fromkeys(self.said, 0)
        return self

    def apply(self, logits: Tensor, rows: Sequence[int]) -> None:
        """Make the recorded tokens the likeliest; rows that have ended repeat their last."""
        tokens = [self.said[row][min(self.position[row], len(self.said[row]) - 1)] for row in rows]
        logits[range(len(rows)), tokens] = float("inf")

    def accept(self, row: int, token: int) -> None:
        """Go on by a token."""
        assert self.said[row][self.position[row]] == token
        self.position[row] += 1


def record(engine: MidalignHF, asked: list[Instance]) -> list[dict[int, list[int]]]:
    """What the rows of each batch say under their grammars."""
    batches: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    kept = []  # so that no two have one id
    accept = constrain.Constraints.accept

    def recorded(self: constrain.Constraints, row: int, token: int) -> None:
        kept.append(self)
        batches[id(self)][row].append(token)
        accept(self, row, token)

    constrain.Constraints.accept = recorded
    new_compiler(engine)
    engine.generate_until(asked, disable_tqdm=True)
    constrain.Constraints.accept = accept
    return list(batches.values())


def run(engine: MidalignHF, asked: list[Instance], compiler: Any) -> tuple[float, int]:
    """Seconds and output tokens."""
    engine.__dict__["compiler"] = compiler
    start = time.perf_counter()
    engine.generate_until(asked, disable_tqdm=True)
    return time.perf_counter() - start, sum(one.output_tokens for one in engine.generated.values())


def measure(engine: MidalignHF, name: str, asked: list[Instance], rounds: int) -> None:
    """Print what a kind of constraint costs; each round compiles everything anew."""
    batches = record(engine, asked)
    write, ratios, speeds = constrain.output_grammar, [], []
    for _ in range(rounds):
        held, tokens = run(engine, asked, new_compiler(engine))
        constrain.output_grammar = lambda task, doc, until: ""
        free, same = run(engine, asked, Replay(batches))
        constrain.output_grammar = write
        assert tokens == same
        ratios.append(free / held)
        speeds.append((tokens / free, tokens / held))
    free, held = (statistics.median(pair[i] for pair in speeds) for i in (0, 1))
    print(
        f"{name}: {len(asked)} items, {tokens:,} tokens; a second {free:,.0f} free, {held:,.0f} constrained; "
        f"constrained over free {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    )


def new_compiler(engine: MidalignHF) -> constrain.Compiler:
    """With an empty cache; reading the tokenizer's vocabulary is paid once a model, and is not measured."""
    engine.__dict__.pop("compiler", None)
    return engine.compiler


def main() -> None:
    """Measure and print."""
    items = int(sys.argv[1]) if len(sys.argv) > 1 else 96
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    engine = MidalignHF(pretrained=bases.resolve("mini"), device="cpu", batch_size=64, constrained=True)
    measure(engine, "slot", requests(items, "Slots:"), rounds)
    schema = call_schema()
    constrain.constraint_of = lambda task, doc: schema
    measure(engine, "JSON", requests(items, "JSON:"), rounds)


if __name__ == "__main__":
    main()
