"""LASER's Tatoeba set: up to 1,000 English sentences with a translation, 112 languages, CC BY 2.0 FR."""

from midalign.data import lines
from midalign.data.cache import FileSet
from midalign.languages import language as known

LICENCE = "CC BY 2.0 FR"
FILES = FileSet("tatoeba")
SOURCE = lines.Source(
    FILES, "https://raw.githubusercontent.com/facebookresearch/LASER/main/data/tatoeba/v1/{file}"
)
add = SOURCE.add


def pairs(language: str) -> list[tuple[str, str]]:
    """(foreign, English) of a language, in file order; raises DataError where the set lacks the language."""
    code = known(language).tatoeba
    return lines.parallel(
        SOURCE, language, f"tatoeba.{code}-eng.{code}" if code else None, f"tatoeba.{code}-eng.eng"
    )
