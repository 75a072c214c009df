"""Count what makes the package hard to read, and fail where a count is over its ceiling.

    python scripts/checks/naming.py            # counts, and ceilings
    python scripts/checks/naming.py --list     # every place too

Ceilings may only fall. The script says where a count is below its ceiling: lower the ceiling then.
"""

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (ROOT, ROOT / "harness_plugins")
PACKAGES = ("midalign", "midalign_lm_eval")

CEILINGS = {
    "modules in import cycles": 0,
    "files over 450 lines": 0,
    "names defined again": 0,
    "docstrings without a verb": 0,
    "docstrings that name no thing": 0,
}

MOST_LINES = 450

NO_THING = frozenset({"Of", "What", "Where", "Whether", "Those", "By"})
"""First words that no docstring may have, whatever it describes."""

VERBS = frozenset(
    """
    Add Allow Answer Append Apply Attach Begin Break Build Call Cast Catch Change Check Choose Clear
    Close Collect Combine Commit Compare Compute Continue Convert Copy Count Create Cut Decode Delete Describe
    Detach Discard Divide Download Draw Drop Embed Encode Ensure Estimate Evaluate Exit Expand Explain
    Fail Fetch Fill Filter Find Fit Fold Format Free Gather Generate Get Give Go Group Halve Hash Hold
    Ignore Import
    Insert Install Iterate Join Keep Lay Leave Let Limit List Load Lock Log Look Make Map Mark Mask
    Match Measure Meet Merge Move Name Normalise Open Order Pack Pad Parse Pick Place Plot Pool Prepare
    Print Process Project Prove Publish Put Raise Read Record Reduce Register Reject Release Remove Render
    Repeat Replace Report Require Reset Resolve Restore Resume Return Round Run Sample Save Say Scale
    Score Seal Search Send Set Shorten Show Silence Skip Solve Sort Split Start State Stop Store Stream
    Sum Summarise Take Tell Tokenize Train Translate Truncate Try Turn Undo Unwrap Update Upload Use
    Verify Wait Walk Warn Wrap Write Yield
    """.split()  # noqa: SIM905
)
"""First words that a docstring of a function may have."""


class Module:
    """A parsed file of the package."""

    def __init__(self, path: Path, source: Path) -> None:
        parts = path.relative_to(source).with_suffix("").parts
        self.name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        self.shown = str(path.relative_to(ROOT))
        self.text = path.read_text("utf-8")
        self.tree = ast.parse(self.text)

    @property
    def is_command(self) -> bool:
        """Whether functions of the module are named after commands."""
        return self.name.startswith("midalign.cli")


def read_modules() -> dict[str, Module]:
    """Return the modules of the packages by dotted name."""
    found = (
        Module(path, source)
        for source in SOURCES
        for package in PACKAGES
        for path in sorted((source / package).rglob("*.py"))
    )
    return {module.name: module for module in found}


def cyclic_modules(modules: dict[str, Module]) -> list[str]:
    """Return the modules that import themselves over others, imports inside functions included."""
    imported = {name: set(_imports(module, modules)) for name, module in modules.items()}
    lines = []
    for name in sorted(modules):
        reached, waiting = set[str](), list(imported[name])
        while waiting:
            module = waiting.pop()
            if module not in reached:
                reached.add(module)
                waiting += imported[module]
        if name in reached:
            ring = [other for other in sorted(reached) if other != name and name in _reach(other, imported)]
            lines.append(f"{name}: with {', '.join(ring) or 'itself'}")
    return lines


def _reach(name: str, imported: dict[str, set[str]]) -> set[str]:
    reached, waiting = set[str](), [name]
    while waiting:
        for module in imported[waiting.pop()] - reached:
            reached.add(module)
            waiting.append(module)
    return reached


def _imports(module: Module, modules: dict[str, Module]) -> Iterator[str]:
    """Yield the modules that a module imports, except for type checkers."""
    for node in _without_type_checking(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module in modules:
            submodules = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name for name in submodules if name in modules)
            if any(name not in modules for name in submodules):
                yield node.module


def _without_type_checking(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield child
            yield from _without_type_checking(child)


def long_files(modules: dict[str, Module]) -> list[str]:
    """Return the files of more than MOST_LINES lines."""
    lengths = ((module.text.count("\n"), module.shown) for module in modules.values())
    return [f"{shown}: {length} lines" for length, shown in sorted(lengths) if length > MOST_LINES]


def repeated_names(modules: dict[str, Module]) -> list[str]:
    """Return the classes and public functions of a module whose name another module has defined before.

    Commands of the command line do not count, nor do functions by which a module fulfils a protocol of its
    package.
    """
    protocols = {module.name: _protocols(module.tree) for module in modules.values()}
    places: dict[str, list[str]] = defaultdict(list)
    for module in modules.values():
        defined = _defined_names(module.tree)
        asked = [members for members in protocols.get(_package(module), []) if members <= defined]
        for node in module.tree.body:
            is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            if not (isinstance(node, ast.ClassDef) or (is_function and not node.name.startswith("_"))):
                continue
            if is_function and (module.is_command or any(node.name in members for members in asked)):
                continue
            places[node.name].append(f"{module.shown}:{node.lineno}")
    return [
        f"{place}: {name} is in {first} too"
        for name, (first, *others) in sorted(places.items())
        for place in others
    ]


def _package(module: Module) -> str:
    return module.name.rpartition(".")[0]


def _protocols(tree: ast.Module) -> list[set[str]]:
    """Return the members of each protocol of a module, those of the protocols it extends included."""
    members: dict[str, set[str]] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "Protocol" for base in node.bases):
            functions = {child.name for child in node.body if isinstance(child, ast.FunctionDef)}
            fields = {ast.unparse(child.target) for child in node.body if isinstance(child, ast.AnnAssign)}
            inherited = (members.get(ast.unparse(base), set()) for base in node.bases)
            members[node.name] = functions.union(fields, *inherited)
    return list(members.values())


def _defined_names(tree: ast.Module) -> set[str]:
    """Return the names that a module defines or imports at its top level."""
    names = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            names.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign):
            names.update(ast.unparse(target) for target in node.targets)
        elif isinstance(node, ast.AnnAssign):
            names.add(ast.unparse(node.target))
    return names


def docstrings_without_a_verb(modules: dict[str, Module]) -> list[str]:
    """Return the functions and methods whose docstring does not begin with one of VERBS."""
    lines = []
    for module in modules.values():
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or _is_property(node):
                continue
            docstring = ast.get_docstring(node)
            if docstring is not None and docstring.split(maxsplit=1)[0].rstrip(",.:") not in VERBS:
                lines.append(f"{module.shown}:{node.lineno}: {node.name}: {docstring.splitlines()[0]}")
    return lines


def docstrings_that_name_no_thing(modules: dict[str, Module]) -> list[str]:
    """Return the docstrings of modules, classes, functions and attributes that begin with one of NO_THING."""
    return [
        f"{module.shown}:{node.lineno}: {node.value.value.strip().splitlines()[0]}"
        for module in modules.values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node.value.value, str) and node.value.value.split(maxsplit=1)[0] in NO_THING
    ]


def _is_property(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any("property" in ast.unparse(decorator) for decorator in node.decorator_list)


def main() -> None:
    """Print the counts, and exit with 1 where one is over its ceiling."""
    modules = read_modules()
    found = {
        "modules in import cycles": cyclic_modules(modules),
        "files over 450 lines": long_files(modules),
        "names defined again": repeated_names(modules),
        "docstrings without a verb": docstrings_without_a_verb(modules),
        "docstrings that name no thing": docstrings_that_name_no_thing(modules),
    }
    rose = []
    for name, ceiling in CEILINGS.items():
        count = len(found[name])
        print(f"{count:4} {name} (ceiling {ceiling}{', lower it' if count < ceiling else ''})")
        if "--list" in sys.argv or count > ceiling:
            print("".join(f"       {line}\n" for line in found[name]), end="")
        if count > ceiling:
            rose.append(name)
    if rose:
        sys.exit(f"More than before: {', '.join(rose)}. The places above hold the new ones.")


if __name__ == "__main__":
    main()
