"""The table of languages: every code mapping in the project is read from `languages.tsv`.

Columns: `code` (midalign's task suffix, as MASSIVE spells its locales), `name`, `script` (ISO 15924),
`direction`, `branch` (of the language family), `joshi` (class 0-5 of Joshi et al. 2020, "The State and Fate
of Linguistic Diversity", by the authors' list lang2tax.txt; regional and script variants have their
language's class), the code of the language in each data set, `comet` (yes if the encoder of COMET's models
knows the language) and the code of the language identifier.

Codes are ISO 639-1 if that names one row only, otherwise ISO 639-3 (`kmr` and `ckb`, not `ku`), with a
variant's region or script after `_`. Rows are sorted by code.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from midalign.errors import TaskError, nearest

ResourceClass = Literal["high", "mid", "low"]
Role = Literal["supervised", "aligned", "unseen"]
ROLES: tuple[Role, ...] = ("supervised", "aligned", "unseen")

RESOURCE_SOURCE = (
    "Joshi et al. 2020, The State and Fate of Linguistic Diversity and Inclusion in the NLP World "
    "(https://aclanthology.org/2020.acl-main.560), the authors' list lang2tax.txt"
)


@dataclass(frozen=True)
class Language:
    """One row of `languages.tsv`."""

    code: str
    name: str
    script: str
    direction: Literal["ltr", "rtl"]
    branch: str
    joshi: int | None
    """None if the authors' list lacks the language."""
    codes: Mapping[str, str] = field(hash=False)
    """The language's code in each data set, empty if the set lacks it. In `uner`, the names of the language's
    treebanks, separated by blanks."""
    comet: bool
    """True if it is among the 100 languages that XLM-R was pretrained on (Conneau et al. 2020)."""
    identifier: str
    """py3langid's code, empty if py3langid does not know the language."""

    @property
    def resource(self) -> ResourceClass:
        """Resource class: Joshi classes 4 and 5 are high, 3 is mid, 0 to 2 are low.

        Languages without a class are low: nearly all languages missing in the list are dialects or small.
        """
        if self.joshi is None:
            return "low"
        return "high" if self.joshi >= 4 else "mid" if self.joshi == 3 else "low"


@cache
def languages() -> dict[str, Language]:
    """Return all languages by code, in the order of the table."""
    header, *lines = (files("midalign") / "languages.tsv").read_text("utf-8").splitlines()
    columns = header.split("\t")
    known = {column.name for column in fields(Language)}
    table = {}
    for line in lines:
        row = dict(zip(columns, line.split("\t"), strict=True))
        typed: dict[str, Any] = {name: value for name, value in row.items() if name in known}
        typed["joshi"] = int(row["joshi"]) if row["joshi"] else None
        typed["comet"] = row["comet"] == "yes"
        typed["codes"] = {name: code for name, code in row.items() if name not in known}
        table[row["code"]] = Language(**typed)
    return table


def languages_of(data_set: str) -> list[str]:
    """Return the codes of the languages that a data set has, in the order of the table."""
    return [code for code, row in languages().items() if row.codes[data_set]]


DIALECTS = {"de_ba": "bar", "de_muc": "bar", "de_st": "bar"}
"""ISO 639-3 codes of xSID's dialects that start with another language's code: Bavarian is not German."""


def same_language(code: str) -> str:
    """Return the code without region and script: `zh` for `zh_cn`, `zh_tw` and `zh`."""
    return DIALECTS.get(code) or code.partition("_")[0]


def matches(code: str, codes: Collection[str]) -> bool:
    """Return whether any of `codes` is of the same language as `code`."""
    return same_language(code) in map(same_language, codes)


def counterpart(code: str, codes: Collection[str]) -> str | None:
    """Return the code itself if it is among `codes`, else the first code of its language, else None."""
    if code in codes:
        return code
    return next((other for other in sorted(codes) if same_language(other) == same_language(code)), None)


def role_of(code: str, supervised: Collection[str], aligned: Collection[str]) -> Role:
    """Return the role that a language had in training.

    If the code itself was not trained on, another code of its language decides: data sets call Chinese `zh`
    or `zh_cn`.
    """
    if code in supervised:
        return "supervised"
    if code in aligned:
        return "aligned"
    if matches(code, supervised):
        return "supervised"
    return "aligned" if matches(code, aligned) else "unseen"


def language(code: str) -> Language:
    """Return the language of `code`. Raises TaskError with the nearest codes."""
    try:
        return languages()[code]
    except KeyError as error:
        raise TaskError(
            f"No language {code!r} in midalign.{nearest(code, languages())} "
            f"All codes: midalign data languages"
        ) from error


def in_table_order(codes: Collection[str]) -> list[str]:
    """Return the codes in the order of the table."""
    return [code for code in languages() if code in codes]
