"""The one table of languages: every code mapping in the project is read from `languages.tsv`.

Columns: `code` (our task suffix, as MASSIVE spells its locales), `name`, `script` (ISO 15924), `branch` (of
the language family), `joshi` (class 0-5 of Joshi et al. 2020, "The State and Fate of Linguistic Diversity"),
the code of the language in each data set that has it, and that of the language identifier.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

from midalign.errors import TaskError, nearest

ResourceClass = Literal["high", "mid", "low"]


@dataclass(frozen=True)
class Language:
    """One row of `languages.tsv`; an empty data set code means that the set does not have the language."""

    code: str
    name: str
    script: str
    branch: str
    joshi: int
    massive: str
    tatoeba: str
    ntrex: str
    mini: str
    identifier: str
    """py3langid's code."""

    @property
    def resource(self) -> ResourceClass:
        """Resource class: Joshi classes 4 and 5 are high, 3 is mid, 0 to 2 are low."""
        return "high" if self.joshi >= 4 else "mid" if self.joshi == 3 else "low"


@cache
def languages() -> dict[str, Language]:
    """All languages by code, in the order of the table."""
    header, *lines = (files("midalign") / "languages.tsv").read_text("utf-8").splitlines()
    columns = header.split("\t")
    table = {}
    for line in lines:
        row = dict(zip(columns, line.split("\t"), strict=True))
        table[row["code"]] = Language(**{**row, "joshi": int(row["joshi"])})  # type: ignore[arg-type]
    return table


def language(code: str) -> Language:
    """The language of `code`; raises TaskError with the nearest codes otherwise."""
    try:
        return languages()[code]
    except KeyError:
        raise TaskError(f"No language {code!r} in midalign.{nearest(code, languages())}") from None
