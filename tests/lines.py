"""Which lines and branches of ``trustgate`` the tests run, without what tracing costs.

coverage.py's tracer doubles the CPU of a run on Python before 3.12, and each process writes a file at its end. Here the
program's modules are compiled with a store of one byte before each statement, into a file that all processes map: it
costs some 10 ns a statement, and what a process that was killed had run counts as well. What was reached is written as
coverage.py's own data, so that its report, its exclusions and its threshold hold.

Libraries that were tried instead: coverage.py's core on sys.monitoring sees no branches before Python 3.14, and each
process still writes its file (a file of tests on 3.13: 19.3 s of CPU; 14.1 without, under the same load). slipcover 1.1
follows forks that end by ``os._exit`` and xdist's workers, not the commands and servers that tests start, nor what is
killed; its pytest plugin warns, which is an error here.

    python -m tests.lines prepare FOLDER    compile the program, and let this Python's processes use it
    python -m tests.lines gather FOLDER     write FOLDER/data for ``coverage report``

Between the two, processes whose environment has TRUSTGATE_TEST_LINES=FOLDER run the compiled modules. Owns the folder's
form: ``start.py`` (run at the start of each such process), ``code/`` (the modules) and ``reached`` (the bytes).
"""

from __future__ import annotations

import ast
import marshal
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "trustgate"
#: Names the folder to the processes of the tests.
VARIABLE = "TRUSTGATE_TEST_LINES"
#: The file of a folder that has the points' bytes.
REACHED = "reached"
_DATA = "data"
#: A file of site-packages whose one line Python runs as it starts: it does nothing without the variable.
_HOOK = "trustgate_test_lines.pth"
_HOOK_LINE = (
    f"import os; {VARIABLE!r} in os.environ and "
    f"exec(open(os.path.join(os.environ[{VARIABLE!r}], 'start.py')).read(), {{}})"
)

#: The start of each process, with ``folder`` and ``package`` set before it. Copies of the program elsewhere, which
#: stand for other versions of it, are left alone.
_START = """
import builtins, marshal, mmap, os, sys
from importlib.machinery import PathFinder, SourceFileLoader

class Loader(SourceFileLoader):
    def get_code(self, name):
        with open(compiled(self.path), "rb") as file:
            return marshal.loads(file.read())

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == os.path.basename(package[:-1]):
            spec = PathFinder.find_spec(name, path, target)
            if spec is not None and spec.origin and spec.origin.startswith(package) and os.path.exists(
                compiled(spec.origin)
            ):
                spec.loader = Loader(name, spec.origin)
                return spec
        return None

def compiled(path):
    return os.path.join(folder, "code", path[len(package):].replace(os.sep, "."))

try:
    with open(os.path.join(folder, "reached"), "r+b") as file:
        builtins.__reached__ = memoryview(mmap.mmap(file.fileno(), 0))
except OSError:
    pass  # another user's process, or one that sees no files
else:
    sys.meta_path.insert(0, Finder)
"""


class Point(NamedTuple):
    """One byte's meaning: these lines were run, or the statement of this line ended without its body."""

    lines: tuple[int, ...]
    is_skip: bool = False


class Module:
    """A module's tree with a store before each statement; the points, in the order of their bytes."""

    def __init__(self, source: str, first: int) -> None:
        self.points: list[Point] = []
        #: The lines of the statements that have a point for being left without their body.
        self.skips: set[int] = set()
        self._first = first
        self.tree = ast.parse(source)
        self.tree.body = self._block(self.tree.body, ())
        ast.fix_missing_locations(self.tree)

    def _block(self, body: list[ast.stmt], above: tuple[int, ...]) -> list[ast.stmt]:
        """``above``: lines before the block that count as run when it is entered, as that of an ``except``."""
        done: list[ast.stmt] = []
        lines = above
        for statement in body:
            lines += _lines(statement)
            # A docstring and imports from __future__ have to stay first.
            if not _stays_first(statement):
                done.append(self._store(statement, Point(lines)))
                lines = ()
            self._enter(statement)
            done.append(statement)
        if lines:
            done.append(self._store(body[-1], Point(lines)))
        return done

    def _enter(self, statement: ast.stmt) -> None:
        for name in ("body", "orelse", "finalbody"):
            if block := getattr(statement, name, None):
                setattr(statement, name, self._block(block, ()))
        for handler in getattr(statement, "handlers", ()):
            handler.body = self._block(handler.body, (handler.lineno,))
        if isinstance(statement, ast.Match):
            self._cases(statement)
        if isinstance(statement, ast.If | ast.While | ast.For | ast.AsyncFor) and not statement.orelse:
            self.skips.add(statement.lineno)
            statement.orelse = [self._store(statement, Point((statement.lineno,), is_skip=True))]

    def _cases(self, statement: ast.Match) -> None:
        """The line of a ``case`` is run where it, or one after it, or none of them fits."""
        tried: tuple[int, ...] = ()
        for case in statement.cases:
            tried += (case.pattern.lineno,)
            case.body = self._block(case.body, tried)
        last = statement.cases[-1]
        if last.guard is not None or not _fits_all(last.pattern):
            nothing = ast.copy_location(ast.MatchAs(), last.pattern)
            statement.cases.append(ast.match_case(nothing, None, [self._store(statement, Point(tried))]))

    def _store(self, at: ast.stmt, point: Point) -> ast.stmt:
        number = self._first + len(self.points)
        self.points.append(point)
        place = ast.Subscript(ast.Name("__reached__", ast.Load()), ast.Constant(number), ast.Store())
        store = ast.copy_location(ast.Assign([place], ast.Constant(1)), at)
        store.end_lineno, store.end_col_offset = store.lineno, store.col_offset
        return store


def _lines(statement: ast.stmt) -> tuple[int, ...]:
    return (*(decorator.lineno for decorator in getattr(statement, "decorator_list", ())), statement.lineno)


def _fits_all(pattern: ast.pattern) -> bool:
    match pattern:
        case ast.MatchAs(pattern=inner):
            return inner is None or _fits_all(inner)
        case ast.MatchOr(patterns=patterns):
            return any(map(_fits_all, patterns))
    return False


def _stays_first(statement: ast.stmt) -> bool:
    match statement:
        case ast.ImportFrom(module="__future__") | ast.Expr(value=ast.Constant()):
            return True
    return False


def modules(package: Path) -> Iterator[tuple[Path, str, Module]]:
    """Yields each file of the program with its text and its points, always in the same order."""
    first = 0
    for path in sorted(package.rglob("*.py")):
        source = path.read_text()
        module = Module(source, first)
        first += len(module.points)
        yield path, source, module


def prepare(folder: Path, package: Path = PACKAGE) -> None:
    """Compile the program into a new folder, for processes that run its ``start.py`` first."""
    code = folder / "code"
    code.mkdir(parents=True)
    count = 0
    for path, _, module in modules(package):
        compiled = compile(module.tree, str(path), "exec", dont_inherit=True)
        (code / str(path.relative_to(package)).replace("/", ".")).write_bytes(marshal.dumps(compiled))
        count += len(module.points)
    (folder / REACHED).write_bytes(bytes(count))
    (folder / "start.py").write_text(f"folder, package = {str(folder)!r}, {f'{package}/'!r}\n{_START}")


def hook() -> None:
    """Have this environment's Python look for the variable, and run ``start.py`` of its folder, at each start."""
    file = Path(sysconfig.get_path("purelib")) / _HOOK
    if not file.exists() or file.read_text() != _HOOK_LINE:
        file.write_text(_HOOK_LINE)


def gather(folder: Path, package: Path = PACKAGE) -> None:
    """Write what was reached as coverage.py's data."""
    from coverage import CoverageData
    from coverage.parser import PythonParser

    reached = iter((folder / REACHED).read_bytes())
    taken = {}
    for path, source, module in modules(package):
        lines: set[int] = set()
        skipped: set[int] = set()
        for point, is_reached in zip(module.points, reached, strict=False):
            if is_reached:
                (skipped if point.is_skip else lines).update(point.lines)
        parser = PythonParser(source, str(path))
        parser.parse_source()
        taken[str(path)] = _arcs(parser.arcs(), lines, skipped, module.skips)
    data = CoverageData(str(folder / _DATA))
    data.add_arcs(taken)
    data.touch_files(taken)
    data.write()


def _arcs(possible: set[tuple[int, int]], lines: set[int], skipped: set[int], skips: set[int]) -> set[tuple[int, int]]:
    """The jumps from line to line that were made; a line's own to itself stands for the line.

    Of a statement in ``skips`` the jump into its body was made where the body was reached, and the other one where the
    statement was skipped. Of any other, as a ``case``, where both its ends were.
    """
    made = {(line, line) for line in lines}
    first_of_body = {line: min((to for of, to in possible if of == line and to > line), default=0) for line in skips}
    for of, to in possible:
        is_other = of in skips and to != first_of_body[of]
        if of in skipped if is_other else of in lines and (to in lines or to < 0):
            made.add((of, to))
    return made


def main(arguments: list[str]) -> None:
    """``prepare FOLDER`` or ``gather FOLDER``."""
    command, folder = arguments[0], Path(arguments[1])
    if command == "prepare":
        prepare(folder)
        hook()
    else:
        gather(folder)


if __name__ == "__main__":
    main(sys.argv[1:])
