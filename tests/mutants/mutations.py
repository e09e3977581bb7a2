"""The one-line mutations of a Python file: every place, and what is written there instead.

A mutation is one expression or one simple statement, replaced in the text; the rest of the file stays as it is. Left
alone are texts, annotations, assertions and what f-strings contain: a test of a message's every word would be a burden.
That a `zip` no longer checks its lengths is marked, as an assertion that is taken out.
"""

import ast
import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_COMPARE = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_BINARY = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
_CALLS = {"min": "max", "max": "min", "any": "all", "all": "any", "sorted": "list", "ceil": "floor", "floor": "ceil"}
_SKIPPED_FIELDS = {"annotation", "returns", "decorator_list", "bases", "format_spec"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """One change of one file."""

    file: str  # from the root of the tree
    place: str  # the function that it is in, with its class
    line: int
    statement: range  # lines of the statement, so that tests that run it can be found
    old: str  # as `ast.unparse` writes it
    new: str
    number: int  # among equal changes in one function, from 1
    text: str  # the file with the change
    function: range = range(0)  # lines of the function around the statement
    is_assertion: bool = False  # it takes out `strict=` of a `zip`, which checks what our own code has made equal

    @property
    def key(self) -> str:
        """Names the change, without its line, so that it outlives changes elsewhere in the file."""
        again = f" (#{self.number})" if self.number > 1 else ""
        return f"{self.file}::{self.place}: {self.old} -> {self.new}{again}"


def mutations(root: Path, file: str) -> list[Mutation]:
    """All of a file, in its order."""
    source = (root / file).read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    seen, found = Counter[tuple[str, str, str]](), list[Mutation]()
    tree = ast.parse(source)
    strict = {id(node) for call in ast.walk(tree) for node in _strictness(call)}
    for place, function, statement, node, new in _changes(tree):
        begin, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
        name = place, _short(ast.unparse(node)), _short(new)
        seen[name] += 1
        written = new if isinstance(node, ast.stmt) else f"({new})"
        found.append(
            Mutation(
                file=file,
                place=place,
                line=node.lineno,
                statement=_lines(statement),
                old=name[1],
                new=name[2],
                number=seen[name],
                function=function,
                text=(source[:begin] + written.encode() + source[end:]).decode(),
                is_assertion=id(node) in strict,
            )
        )
    return found


def _strictness(node: ast.AST) -> Iterator[ast.AST]:
    """A call of `zip` whose only named argument is `strict`, and that argument's value."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "zip":
        yield from (part for keyword in node.keywords if keyword.arg == "strict" for part in (node, keyword.value))


def _short(text: str) -> str:
    return " ".join(text.split())


def _lines(statement: ast.stmt) -> range:
    """Of a simple statement all; of a compound one its head."""
    body = getattr(statement, "body", None)
    last = body[0].lineno - 1 if body else statement.end_lineno
    return range(statement.lineno, max(statement.lineno, last) + 1)


def _changes(tree: ast.Module) -> Iterator[tuple[str, range, ast.stmt, ast.stmt | ast.expr, str]]:
    """-> (place, lines of the function, statement, replaced node, new text) of every mutation."""

    def walk(node: ast.AST, place: str, function: range, statement: ast.stmt | None) -> Iterator[tuple]:
        if isinstance(node, (ast.JoinedStr, ast.Assert, ast.Import, ast.ImportFrom)):
            return
        if isinstance(node, ast.stmt):
            statement = node
            yield from ((place, function, node, node, new) for new in _of_statement(node))
        elif isinstance(node, ast.expr):
            yield from ((place, function, statement, node, ast.unparse(new)) for new in _of_expression(node))
        if isinstance(node, (ast.If, ast.While, ast.IfExp)):
            negated = ast.unparse(ast.UnaryOp(ast.Not(), node.test))
            if not isinstance(node.test, (ast.Compare, ast.UnaryOp)):  # those change by their operator
                yield place, function, statement, node.test, negated
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            place = f"{place}.{node.name}" if place else node.name
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            function = range(node.body[0].lineno, node.end_lineno + 1)
        for name, value in ast.iter_fields(node):
            if name not in _SKIPPED_FIELDS:
                for child in value if isinstance(value, list) else [value]:
                    if isinstance(child, ast.AST):
                        yield from walk(child, place, function, statement)

    yield from walk(tree, "", range(0), None)


def _of_statement(node: ast.stmt) -> Iterator[str]:
    if (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)) or isinstance(node, ast.Raise):
        yield "pass"
    elif isinstance(node, ast.Continue):
        yield "break"
    elif isinstance(node, ast.Break):
        yield "continue"
    elif isinstance(node, ast.AugAssign) and type(node.op) in _BINARY:
        yield ast.unparse(_with(node, op=_BINARY[type(node.op)]()))
    elif isinstance(node, ast.Return) and node.value is not None and not isinstance(node.value, ast.Constant):
        yield "return None"


def _of_expression(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            yield _with(node, ops=[*node.ops[:i], _COMPARE[type(op)](), *node.ops[i + 1 :]])
    elif isinstance(node, ast.BinOp) and type(node.op) in _BINARY and not _has_text(node):
        yield _with(node, op=_BINARY[type(node.op)]())
    elif isinstance(node, ast.BoolOp):
        yield _with(node, op=ast.And() if isinstance(node.op, ast.Or) else ast.Or())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
        yield node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float)):
        yield ast.Constant(_other(node.value))
    elif isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name) and node.func.id in _CALLS:
            yield _with(node, func=ast.Name(_CALLS[node.func.id]))
        for i in range(len(node.keywords)):
            yield _with(node, keywords=node.keywords[:i] + node.keywords[i + 1 :])


def _other(value: float) -> float:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    return 2 * value if value else 1.0


def _has_text(node: ast.BinOp) -> bool:
    return any(
        isinstance(side, ast.JoinedStr) or (isinstance(side, ast.Constant) and isinstance(side.value, str))
        for side in (node.left, node.right)
    )


def _with(node: ast.AST, **changes: object) -> ast.AST:
    changed = copy.copy(node)
    for name, value in changes.items():
        setattr(changed, name, value)
    return changed
