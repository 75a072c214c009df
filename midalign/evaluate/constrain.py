"""Constrained decoding: outputs follow the schema or the grammar of their task.

Both engines get the same grammar, as text. Around the answer it allows what the free regime strips: a blank
before it, and after it the task's stop strings, which end an output just as an end-of-sequence token does.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from midalign import harness
from midalign.errors import EngineError, TaskError
from midalign.evaluate import generation, tokenizers
from midalign.families import family
from midalign.families.slot_grammar import quoted

if TYPE_CHECKING:
    import xgrammar
    from torch import Tensor

SEPARATORS = (", ", ": ")
"""Separators of json.dumps, which wrote the targets."""

BLANK = '" "?'
BREAKS = r'"\n"? "\n"? " "?'
"""Rules for blanks before an answer, and before an answer that follows thoughts."""

CACHE = 256 * 2**20
"""Bytes of compiled grammars to keep. An utterance's grammar has half a megabyte for 262,144 tokens."""

_WRONG_CHARACTER = r"(([^\"\\\r\n]))"
_CHARACTER = r"(([^\0-\x1f\"\\]) | ([\\] basic_escape))"
_ESCAPE = (
    r'basic_escape ::= ([\"\\/bfnrt] | "u" ([0-9A-CE-Fa-ce-f] [0-9A-Fa-f] | [Dd] [0-7]) '
    r"[0-9A-Fa-f] [0-9A-Fa-f])"
)


def constraint_of(task: str, doc: Mapping[str, Any]) -> dict[str, Any] | str:
    """Return the JSON Schema of a document's output, or its grammar in xgrammar's EBNF.

    Raises TaskError for a task without either.
    """
    try:
        metadata = harness.metadata(task)
    except TaskError:
        raise TaskError(
            f"{task} is not one of midalign's tasks, so it has no schema or grammar to decode by. "
            f"Skip the task, or score it without --constrained (constrained=True)"
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
            f"Fix it, or score the task without --constrained (constrained=True)"
        ) from error


@cache
def _of_schema(schema: str) -> str:
    """Return the grammar of a JSON Schema's documents, on one line as json.dumps writes them.

    Two rules of xgrammar 0.2.8 are replaced. Its strings of limited length exclude escapes and include raw
    control characters, which is not JSON. Its escapes include half of a surrogate pair, which is not text.
    """
    import jsonschema
    import xgrammar

    try:
        jsonschema.Draft202012Validator.check_schema(json.loads(schema))
    except jsonschema.SchemaError as error:
        raise ValueError(error.message) from error
    text = _text(xgrammar.Grammar.from_json_schema(schema, any_whitespace=False, separators=SEPARATORS))
    rules = text.replace(_WRONG_CHARACTER, _CHARACTER).splitlines()
    return "\n".join(_ESCAPE if rule.startswith("basic_escape ::=") else rule for rule in rules)


def _text(grammar: "xgrammar.Grammar") -> str:
    r"""Return a grammar as EBNF that parses to the same grammar.

    xgrammar 0.2.8 writes "é" as \xe9, and reads all hexadecimal digits after \x: it parses \xe9e as one
    character instead of é and e. The longer escape has a fixed length.
    """
    return re.sub(
        r"\\(\\|x([0-9a-f]{2}))", lambda escape: f"\\u00{escape[2]}" if escape[2] else escape[0], str(grammar)
    )


def markup(tokenizer: Any, ends: Collection[int]) -> list[int]:
    """Return the sorted ids of special tokens that do not end an output.

    Decoding drops them, but a grammar would match their names as text.
    """
    added = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    return sorted((added | set(tokenizer.all_special_ids)) - set(ends))


def base_markup(base: str) -> list[int]:
    """Return the `markup` of a base, by folder or hub id."""
    tokenizer = tokenizers.load_tokenizer(base)
    return markup(tokenizer, generation.end_ids(generation.base_generation_config(base), tokenizer))


class Compiler:
    """Compiler of grammars for one tokenizer, with a cache of CACHE bytes."""

    def __init__(self, tokenizer: Any, vocabulary: int, ends: Collection[int]) -> None:
        """Prepare the vocabulary.

        `vocabulary` is the number of the model's logits, `ends` the ids that end a sequence.
        """
        import xgrammar

        info = xgrammar.TokenizerInfo.from_huggingface(
            tokenizer, vocab_size=vocabulary, stop_token_ids=sorted(ends)
        )
        # An utterance's grammar compiles in milliseconds, faster with one thread than with several.
        self.compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_limit_bytes=CACHE)
        self.vocabulary = vocabulary
        self.markup = [id for id in markup(tokenizer, ends) if id < vocabulary]

    def constraints(self, grammars: Sequence[str]) -> "Constraints":
        """Start a batch whose rows have these grammars."""
        compiled = [self.compiler.compile_grammar(text) for text in grammars]
        return Constraints(compiled, self.vocabulary, self.markup)


class Constraints:
    """State of each row of a batch in its grammar."""

    def __init__(
        self, compiled: "Sequence[xgrammar.CompiledGrammar]", vocabulary: int, markup: Sequence[int]
    ) -> None:
        import xgrammar

        self.matchers = [xgrammar.GrammarMatcher(grammar) for grammar in compiled]
        self.bits = xgrammar.allocate_token_bitmask(len(self.matchers), vocabulary)
        self.markup = list(markup)

    def apply(self, logits: "Tensor", rows: Sequence[int]) -> None:
        """Set the logits (rows, vocabulary) of forbidden tokens to minus infinity, in place."""
        import xgrammar

        for place, row in enumerate(rows):
            if self.matchers[row].is_terminated():
                self.bits[place] = -1
            else:
                self.matchers[row].fill_next_token_bitmask(self.bits, place)
        logits[:, self.markup] = float("-inf")
        xgrammar.apply_token_bitmask_inplace(logits, self.bits[: len(rows)].to(logits.device))

    def accept(self, row: int, token: int) -> None:
        """Move a row on by a token. Raises EngineError if the grammar allowed no token."""
        if not self.matchers[row].accept_token(token):
            raise EngineError(
                "Constrained decoding reached a dead end: the base's vocabulary has no token for a character "
                "of the task's texts. Score this base without --constrained (constrained=True)"
            )


def unconstrained_sampling_error() -> EngineError:
    """Return the error for requests that lm-eval's own loop would answer unconstrained."""
    return EngineError(
        "Constrained decoding is greedy, but a task asks for sampling or beams. Remove temperature, "
        "do_sample and num_beams from --gen_kwargs, or remove --constrained (constrained=True)"
    )
