"""Mutants: small changes to a source file, each of which some test should notice. Owns the kinds of change.

    compare   ``<`` ↔ ``<=``, ``==`` ↔ ``!=``, ``is`` ↔ ``is not``, ``in`` ↔ ``not in``
    boolean   ``and`` ↔ ``or``; ``not x`` → ``x``; ``True`` ↔ ``False``
    number    ``+`` ↔ ``-``, ``*`` → ``//``, ``+=`` ↔ ``-=``; an integer plus one
    drop      a call whose value is not used, a ``raise``, an assignment to an attribute → ``pass``

Not changed: what no test can see or need see (log lines, assertions, annotations, messages, ``__slots__``, docstrings).
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from typing import NamedTuple


class Mutant(NamedTuple):
    """One change: the lines and columns (UTF-8 bytes) that it replaces, and with what."""

    kind: str
    line: int
    column: int
    end_line: int
    end_column: int
    text: str
    old: str

    def apply(self, source: str) -> str:
        """The source with the change in it."""
        lines = source.encode().splitlines(keepends=True)
        before = b"".join(lines[: self.line - 1]) + lines[self.line - 1][: self.column]
        after = lines[self.end_line - 1][self.end_column :] + b"".join(lines[self.end_line :])
        return (before + self.text.encode() + after).decode()


_COMPARE: dict[type[ast.cmpop], type[ast.cmpop]] = {
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
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
}


def mutants_of(source: str) -> list[Mutant]:
    """Every mutant of a module, in the order of their places."""
    tree = ast.parse(source)
    found = [mutant for function in _functions(tree) for mutant in _in_function(source, function)]
    return sorted(set(found), key=lambda mutant: (mutant.line, mutant.column, mutant.text))


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _in_function(source: str, function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[Mutant]:
    todo: list[ast.AST] = list(function.body)
    while todo:
        node = todo.pop()
        if _is_out_of_sight(node):
            continue
        for kind, changed in _changes(node):
            segment = ast.get_source_segment(source, node)
            if segment is not None:
                text = "pass" if isinstance(changed, ast.Pass) else f"({ast.unparse(changed)})"
                if isinstance(changed, ast.AugAssign):
                    text = ast.unparse(changed)
                yield Mutant(kind, *_place(node), text, segment)
        todo.extend(ast.iter_child_nodes(node))


def _place(node: ast.AST) -> tuple[int, int, int, int]:
    return node.lineno, node.col_offset, node.end_lineno, node.end_col_offset  # type: ignore[attr-defined]


def _is_out_of_sight(node: ast.AST) -> bool:
    if isinstance(node, ast.Assert | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.JoinedStr):
        return True
    if isinstance(node, ast.Expr):
        if isinstance(node.value, ast.Constant):
            return True
        return ast.unparse(node).startswith(("_logger.", "logger.", "self._say("))
    # What an error says is prose; ``zip``'s ``strict`` is an assertion.
    return isinstance(node, ast.keyword) and node.arg in {"hint", "code", "headers", "strict"}


def _changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    match node:
        case ast.Compare(ops=[operator]) if type(operator) in _COMPARE:
            yield "compare", _with(node, ops=[_COMPARE[type(operator)]()])
        case ast.BoolOp(op=operator):
            yield "boolean", _with(node, op=ast.Or() if isinstance(operator, ast.And) else ast.And())
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield "boolean", operand
        case ast.Constant(value=bool(value)):
            yield "boolean", ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield "number", ast.Constant(value + 1)
        case ast.BinOp(op=operator) if type(operator) in _ARITHMETIC and not _is_text(node):
            yield "number", _with(node, op=_ARITHMETIC[type(operator)]())
        case ast.AugAssign(op=operator) if type(operator) in _ARITHMETIC:
            yield "number", _with(node, op=_ARITHMETIC[type(operator)]())
        case ast.Raise() | ast.Expr(value=ast.Call() | ast.Await()) | ast.Assign(targets=[ast.Attribute()]):
            yield "drop", ast.Pass()


def _is_text(node: ast.BinOp) -> bool:
    sides = (node.left, node.right)
    return any(isinstance(side, ast.JoinedStr) for side in sides) or any(
        isinstance(side, ast.Constant) and isinstance(side.value, str | bytes) for side in sides
    )


def _with(node: ast.AST, **members: object) -> ast.AST:
    changed = copy.copy(node)
    for name, value in members.items():
        setattr(changed, name, value)
    return changed
