"""Constrained decoding: an output can only be what the schema or the grammar of its task allows.

Both engines get the same grammar as text, so that they mean the same by it. Around the answer it allows what
the free regime strips: a blank before, and the task's stop strings after, by which a model may say that it is
done as well as by an end of sequence.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from midalign import harness
from midalign.errors import EngineError, TaskError
from midalign.families import family
from midalign.families.slot_grammar import quoted

if TYPE_CHECKING:
    import xgrammar
    from torch import Tensor

SEPARATORS = (", ", ": ")
"""Of json.dumps, which wrote the targets."""

BLANK = '" "?'
BREAKS = r'"\n"? "\n"? " "?'
"""Blanks allowed before an answer, and before an answer that follows thoughts."""

CACHE = 256 * 2**20
"""Bytes of compiled grammars that are kept; that of an utterance has half a megabyte for 262,144 tokens."""

_WRONG_CHARACTER = r"(([^\"\\\r\n]))"
_CHARACTER = r"(([^\0-\x1f\"\\]) | ([\\] basic_escape))"
_ESCAPE = (
    r'basic_escape ::= ([\"\\/bfnrt] | "u" ([0-9A-CE-Fa-ce-f] [0-9A-Fa-f] | [Dd] [0-7]) '
    r"[0-9A-Fa-f] [0-9A-Fa-f])"
)


def constraint_of(task: str, doc: Mapping[str, Any]) -> dict[str, Any] | str:
    """Return a JSON Schema, or a grammar in xgrammar's EBNF. Raises TaskError for a task without either."""
    try:
        metadata = harness.metadata(task)
    except TaskError:
        raise TaskError(
            f"{task} is not one of midalign's tasks, and only those say what their answers may be. "
            f"Leave it out, or --constrained (constrained=True)"
        ) from None
    return family(metadata["family"]).constraint(doc, metadata)


def output_grammar(
    task: str, doc: Mapping[str, Any], until: Sequence[str], after_thoughts: bool = False
) -> str:
    """Return the grammar of a document's output in xgrammar's EBNF.

    Answers after thoughts may begin with line breaks, which separate the two. Raises TaskError for a task
    without constraint, or if its schema or grammar does not compile.
    """
    import xgrammar

    constraint = constraint_of(task, doc)
    try:
        answer = (
            constraint
            if isinstance(constraint, str)
            else _of_schema(json.dumps(constraint, ensure_ascii=False))
        )
        before = xgrammar.Grammar.from_ebnf(f"root ::= {BREAKS if after_thoughts else BLANK}")
        stops = " | ".join(quoted(stop) for stop in until if stop)
        after = xgrammar.Grammar.from_ebnf(f"root ::= ({stops})*" if stops else 'root ::= ""')
        return _text(xgrammar.Grammar.concat(before, xgrammar.Grammar.from_ebnf(answer), after))
    except (RuntimeError, ValueError) as error:
        kind = "grammar" if isinstance(constraint, str) else "JSON Schema"
        raise TaskError(
            f"The {kind} of {task} does not compile: {' '.join(str(error).split())[:500]}. "
            f"Mend it, or score the task without --constrained (constrained=True)"
        ) from None


@cache
def _of_schema(schema: str) -> str:
    """Return the grammar of a JSON Schema's documents, on one line as json.dumps writes them.

    xgrammar 0.2.8 reads a string with a length as characters without escapes and with raw control characters,
    which JSON does not have, so that rule is replaced. Escapes are replaced too, because half of a surrogate
    pair is not text.
    """
    import jsonschema
    import xgrammar

    try:
        jsonschema.Draft202012Validator.check_schema(json.loads(schema))
    except jsonschema.SchemaError as error:
        raise ValueError(error.message) from None
    found = _text(xgrammar.Grammar.from_json_schema(schema, any_whitespace=False, separators=SEPARATORS))
    rules = found.replace(_WRONG_CHARACTER, _CHARACTER).splitlines()
    return "\n".join(_ESCAPE if rule.startswith("basic_escape ::=") else rule for rule in rules)


def _text(grammar: "xgrammar.Grammar") -> str:
    r"""Return a grammar as EBNF that can be parsed again without a change of meaning.

    xgrammar 0.2.8 writes "é" as \xe9 and reads as many digits as follow, so that it parses \xe9e as one
    character instead of é and e. The longer escape has a fixed length.
    """
    return re.sub(
        r"\\(\\|x([0-9a-f]{2}))", lambda escape: f"\\u00{escape[2]}" if escape[2] else escape[0], str(grammar)
    )


def markup(tokenizer: Any, ends: Collection[int]) -> list[int]:
    """Return the sorted ids of special tokens that end nothing.

    Decoding drops them, but a grammar reads their names as text.
    """
    added = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    return sorted((added | set(tokenizer.all_special_ids)) - set(ends))


class Compiler:
    """Grammars compiled for one tokenizer, each once as long as CACHE holds it."""

    def __init__(self, tokenizer: Any, vocabulary: int, ends: Collection[int]) -> None:
        """Prepare the vocabulary.

        `vocabulary` is the number of the model's logits, `ends` the ids that end a sequence.
        """
        import xgrammar

        info = xgrammar.TokenizerInfo.from_huggingface(
            tokenizer, vocab_size=vocabulary, stop_token_ids=sorted(ends)
        )
        # An utterance's grammar compiles in milliseconds, and sooner in one thread than in several.
        self.compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_limit_bytes=CACHE)
        self.vocabulary = vocabulary
        self.markup = [id for id in markup(tokenizer, ends) if id < vocabulary]

    def constraints(self, grammars: Sequence[str]) -> "Constraints":
        """Start a batch whose rows have these grammars."""
        compiled = [self.compiler.compile_grammar(text) for text in grammars]
        return Constraints(compiled, self.vocabulary, self.markup)


class Constraints:
    """Where each row of a batch stands in its grammar."""

    def __init__(
        self, compiled: "Sequence[xgrammar.CompiledGrammar]", vocabulary: int, markup: Sequence[int]
    ) -> None:
        import xgrammar

        self.matchers = [xgrammar.GrammarMatcher(one) for one in compiled]
        self.bits = xgrammar.allocate_token_bitmask(len(self.matchers), vocabulary)
        self.markup = list(markup)

    def apply(self, logits: "Tensor", rows: Sequence[int]) -> None:
        """Turn what the grammars do not allow to minus infinity, in place; `logits` (rows, vocabulary)."""
        import xgrammar

        for place, row in enumerate(rows):
            if self.matchers[row].is_terminated():
                self.bits[place] = -1
            else:
                self.matchers[row].fill_next_token_bitmask(self.bits, place)
        logits[:, self.markup] = float("-inf")
        xgrammar.apply_token_bitmask_inplace(logits, self.bits[: len(rows)].to(logits.device))

    def accept(self, row: int, token: int) -> None:
        """Go on by a token; raises EngineError where none was left to choose from."""
        if not self.matchers[row].accept_token(token):
            raise EngineError(
                "Constrained decoding came to a place where the base's vocabulary has no token: it lacks a "
                "character of the task's texts. Score this base without --constrained (constrained=True)"
            )


def unconstrained_sampling_error() -> EngineError:
    """Return the error for requests that lm-eval's own loop would answer unconstrained."""
    return EngineError(
        "Constrained decoding is greedy, and a task asks for sampling or beams. Leave out temperature, "
        "do_sample and num_beams in --gen_kwargs, or --constrained (constrained=True)"
    )
