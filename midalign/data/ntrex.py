"""NTREX-128: 1,997 English news sentences in 128 languages (Federmann et al. 2022), CC BY-SA 4.0."""

from midalign.data import lines
from midalign.data.cache import FileSet
from midalign.languages import language as known

LICENCE = "CC BY-SA 4.0"
FILES = FileSet("ntrex")
SOURCE = lines.Source(
    FILES, "https://raw.githubusercontent.com/MicrosoftTranslator/NTREX/main/NTREX-128/{file}"
)
add = SOURCE.add


def pairs(language: str) -> list[tuple[str, str]]:
    """(foreign, English) of a language, in file order; raises DataError where the set lacks the language."""
    code = known(language).ntrex
    return lines.parallel(
        SOURCE, language, f"newstest2019-ref.{code}.txt" if code else None, "newstest2019-src.eng.txt"
    )
