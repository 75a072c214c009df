"""LASER's Tatoeba set: up to 1,000 English sentences with a translation, in 112 languages."""

import logging

from midalign.data import lines
from midalign.data.cache import FileSet
from midalign.errors import DataError
from midalign.languages import language as known
from midalign.metrics.script import in_script

log = logging.getLogger(__name__)

LICENCE = "CC BY 2.0 FR"
CITATION = "Artetxe and Schwenk 2019, https://arxiv.org/abs/1812.10464"
LEARNED_SPLIT = "test"
SELECTION = 2  # since then, only pairs in the language's script
FILES = FileSet("tatoeba")
SOURCE = lines.LineFiles(
    FILES, "https://raw.githubusercontent.com/facebookresearch/LASER/main/data/tatoeba/v1/{file}"
)
add = SOURCE.add


def pairs(language: str) -> list[tuple[str, str]]:
    """Return the (foreign, English) pairs of a language that are in its script, in file order.

    Tatoeba's files mix scripts: `cmn` holds Simplified and Traditional Chinese, `srp` Cyrillic and Latin.

    Raises:
        DataError: the set lacks the language.
    """
    row = known(language)
    code = row.codes["tatoeba"]
    if not code:
        raise DataError(
            f"tatoeba has no pairs of {language!r}. Omit this language. The languages of tatoeba: "
            f"midalign data languages"
        )
    pairs = lines.line_pairs(SOURCE, f"tatoeba.{code}-eng.{code}", f"tatoeba.{code}-eng.eng")
    kept = [(foreign, english) for foreign, english in pairs if in_script(foreign, row.script) is not False]
    if len(kept) < len(pairs):
        log.info(
            "tatoeba: skipped %d of %d pairs of %s, which are in another script",
            *(len(pairs) - len(kept), len(pairs), language),
        )
    return kept
