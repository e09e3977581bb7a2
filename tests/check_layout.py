"""Checks the tree: no full folder, no circle of imports, folders that import one way, no name that isn't there.

    python -m tests.check_layout [ROOT]      # prints what is wrong, and leaves with status 1

Every import counts, those within functions and those for types only too. Folders and modules that lie side by side
are held against each other at every level, so that `eval/answers` and `eval/judging` may not import each other,
and neither may `sweeps` and `eval`.

README.md, docs/*.md and the sources name many files, modules and functions. Each must exist: the path of a module or a
document, a dotted name in backticks that begins with a package, and in the documents also any path, the target of a
link, and an identifier in backticks.
"""

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Set
from pathlib import Path

PACKAGES = ("harness", "sweeps", "eval", "analysis")
MAX_MODULES = 13  # of a folder, __init__.py not counted
ALIASES = frozenset({"harness.run"})  # a path that users type, whose body lies higher up: its imports don't count

CODE = (*PACKAGES, "benchmarks", "tests")
_PATH = re.compile(rf"(?<![\w/.<>~-])(?:{'|'.join((*CODE, 'conf', 'docs'))})/[\w/.-]*\w(?![\w/]*[*<{{])")
_SUFFIXES = (".py", ".md")  # of the paths that count in sources, which name places of other trees too
_NAME = re.compile(rf"(?<=`)(?:{'|'.join(CODE)})(?:\.(?!py`)\w+)+(?=`)")
_IDENTIFIER = re.compile(r"(?<=`)[A-Za-z]\w*_\w+(?=`)|(?<=`)(?:[A-Z][a-z0-9]+){2,}(?=`)")
_LINK = re.compile(r"\]\(([^)#:]+)\)")
_WORD = re.compile(r"\w+")

Graph = Mapping[str, Set[str]]


def main(root: Path) -> int:
    """-> exit status: 0, or 1 after the problems are printed."""
    problems = [*layout_problems(root), *name_problems(root)]
    for problem in problems:
        print(problem)
    return 1 if problems else 0


def layout_problems(root: Path) -> list[str]:
    """Every full folder and every circle below `root`, a line each."""
    modules = {dotted(path, root): path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))}
    imports = {name: set(imported(path, modules)) - {name} for name, path in modules.items() if name not in ALIASES}
    of_modules = circles(imports)
    of_folders = [circle for graph in siblings(imports).values() for circle in circles(graph)]
    return [
        *full_folders(root),
        *(f"modules import each other: {' -> '.join(circle)}" for circle in of_modules),
        *(f"folders import each other: {' -> '.join(circle)}" for circle in of_folders if circle not in of_modules),
    ]


def name_problems(root: Path) -> Iterator[str]:
    """Every path, dotted name, identifier and link in the documents and sources that leads nowhere."""
    sources = [path for folder in CODE for path in sorted((root / folder).rglob("*.py"))]
    words = {word for path in sources for word in _WORD.findall(path.read_text(encoding="utf-8"))}
    words |= {word for path in (root / "conf").rglob("*.yaml") for word in _WORD.findall(path.read_text("utf-8"))}
    documents = [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    for file in (*documents, *(path for path in sources if not path.is_relative_to(root / "tests"))):
        text = file.read_text(encoding="utf-8")
        paths = {path for path in _PATH.findall(text) if file in documents or path.endswith(_SUFFIXES)}
        wrong = {path for path in paths if not (root / path).exists()}
        wrong |= {name for name in _NAME.findall(text) if not is_defined(name, root, words)}
        if file in documents:
            wrong |= set(_IDENTIFIER.findall(text)) - words
            wrong |= {link for link in _LINK.findall(text) if not (file.parent / link).exists()}
        yield from (f"{file.relative_to(root)}: no {name} in this tree" for name in sorted(wrong))


def is_defined(name: str, root: Path, words: Set[str]) -> bool:
    """Whether a dotted name is a module, something in a module, or a key of the config (`eval.after_training`)."""
    place, parts = root, name.split(".")
    while parts and (place / parts[0]).is_dir():
        place /= parts.pop(0)
    if parts and (place / f"{parts[0]}.py").is_file():
        text = (place / f"{parts.pop(0)}.py").read_text(encoding="utf-8")
        return set(parts) <= set(_WORD.findall(text))
    return not parts or (name.startswith("eval.") and set(parts) <= words)


def full_folders(root: Path) -> Iterator[str]:
    """Folders with more modules than anyone wants to look through."""
    tests = ("tests", "benchmarks")
    for folder in sorted({path.parent for package in (*PACKAGES, *tests) for path in (root / package).rglob("*.py")}):
        number = sum(path.name != "__init__.py" for path in folder.glob("*.py"))
        if number > MAX_MODULES:
            yield f"{folder.relative_to(root)}: {number} modules, at most {MAX_MODULES} fit into a folder"


def imported(path: Path, modules: Mapping[str, Path]) -> Iterator[str]:
    """Which of `modules` a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for name in (f"{node.module}.{alias.name}" for alias in node.names):
                yield name if name in modules else node.module


def siblings(imports: Graph) -> dict[str, dict[str, set[str]]]:
    """For each folder, which of its members (modules and folders) import which others of them."""
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for name, targets in imports.items():
        for target in targets:
            a, b = name.split("."), target.split(".")
            depth = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
            if depth is not None:
                found[".".join(a[:depth])][".".join(a[: depth + 1])].add(".".join(b[: depth + 1]))
    return found


def circles(graph: Graph) -> list[list[str]]:
    """One circle for each knot of the graph, as a path that ends where it began."""
    found: list[list[str]] = []
    done: set[str] = set()
    for start in sorted(graph):
        circle = circle_through(start, graph)
        if circle and not done & set(circle):
            found.append(circle)
            done |= set(circle)
    return found


def circle_through(start: str, graph: Graph) -> list[str]:
    """The shortest way from `start` back to it; empty where there is none."""
    before: dict[str, str] = {}
    border = [start]
    while border:
        reached: list[str] = []
        for name in border:
            for target in sorted(graph.get(name, ())):
                if target == start:
                    way = [start, name]
                    while way[-1] != start:
                        way.append(before[way[-1]])
                    return way[::-1]
                if target not in before:
                    before[target] = name
                    reached.append(target)
        border = reached
    return []


def dotted(path: Path, root: Path) -> str:
    """harness/nn/loss.py -> harness.nn.loss; a folder's __init__.py -> the folder's name."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent))
