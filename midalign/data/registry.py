"""The data sets, and whether they are here."""

from dataclasses import dataclass

from midalign.data import alma, flores, massive, ntrex, tatoeba, uner, wmt23, xsid

DATASETS = {
    "massive": massive,
    "tatoeba": tatoeba,
    "ntrex": ntrex,
    "wmt23": wmt23,
    "alma": alma,
    "xsid": xsid,
    "flores": flores,
    "uner": uner,
}


@dataclass(frozen=True)
class State:
    """How much of a data set is in the cache."""

    name: str
    licence: str
    present: int
    files: int

    @property
    def complete(self) -> bool:
        """Whether every file is there."""
        return self.present == self.files


def states() -> list[State]:
    """Return the state of every data set that is not in the package."""
    found = []
    for name, module in DATASETS.items():
        files = module.FILES
        present = sum(files.path(file).is_file() for file in files.digests)
        found.append(State(name, module.LICENCE, present, len(files.digests)))
    return found
