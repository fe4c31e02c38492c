"""Break a file of tfopt on purpose, one small change at a time, and count the changes that its tests do not notice.

    pip install --editable '.[mutation]'
    python -P benchmarks/mutation.py tfopt/data/split.py tests/data/test_split.py

The changes (mutants) are those of cosmic-ray's operators, one drawn from each of `--most` equal shares of the file.
Libraries and tests are imported once; each mutant is a fork of this process in which the changed function has new code.
What runs on import is imported again there. The file is changed on disk too, for the processes that tfopt starts, and
restored. A mutant meets the tests that execute its statement, up to the first that fails; if none does in this process,
all of them. Writes a JSON line for each mutant, then prints the counts; benchmarks/results/mutation.md has results.
`-P` keeps this folder off the path, where coverage.py would hide the library of that name.
"""

import ast
import gc
import itertools
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import click
import cosmic_ray.plugins
import coverage
import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code, use_mutation

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"  # bytecode of a mutant must not outlive it, here and in child processes
sys.dont_write_bytecode = True

OPTIONS = ["-q", "-s", "-p", "no:cacheprovider", "-p", "no:xdist"]
# Equal numbers and strings are mostly the same object, so these change nothing that a test can see.
SAME = re.compile("_(Eq_Is|NotEq_IsNot|Is_Eq|IsNot_NotEq)$")
SLACK = 60  # seconds in which a fork may start, on a busy machine
BROKEN = 70  # exit status of a fork that did not get as far as its tests
Run = Callable[[Path], Any]


@dataclass(frozen=True)
class Mutant:
    """One change: cosmic-ray's operator, the number of its place in the file, and that place."""

    operator: str
    occurrence: int
    line: int
    column: int

    @property
    def change(self) -> Any:
        """The operator itself."""
        return cosmic_ray.plugins.get_operator(f"core/{self.operator}")()


def mutants(path: Path) -> list[Mutant]:
    """All mutants of a file by their places, without those of annotations and those that no test can tell apart."""
    source = path.read_text()
    nodes, notes = list(ast_nodes(get_ast(source))), list(annotated(ast.parse(source)))
    found = []
    for name in cosmic_ray.plugins.operator_names():
        operator = cosmic_ray.plugins.get_operator(name)
        if operator.arguments() or SAME.search(name):
            continue
        places = [start for node in nodes for start, _ in operator().mutation_positions(node)]
        for number, place in enumerate(places):
            if possible(operator(), source, number) and not any(start <= place < end for start, end in notes):
                found.append(Mutant(name.partition("/")[2], number, *place))
    return sorted(found, key=lambda one: (one.line, one.column, one.operator, one.occurrence))


def possible(operator: Any, source: str, number: int) -> bool:
    """Whether cosmic-ray can make the change: it cannot replace dotted names in a tuple of exceptions."""
    if type(operator).__name__ != "ExceptionReplacer":
        return True
    try:
        return mutate_code(source, operator, number) is not None
    except AttributeError:
        return False


def annotated(tree: ast.AST) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """The places of annotations, from and to (line, column), and of the marks `*` and `/` in signatures."""
    for node in ast.walk(tree):
        for one in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if one is not None:
                yield (one.lineno, one.col_offset), (one.end_lineno, one.end_col_offset)
        if isinstance(node, ast.FunctionDef) and node.args.kwonlyargs:
            first, before = node.args.kwonlyargs[0], (node.args.posonlyargs + node.args.args)[-1:]
            start = (before[0].lineno, before[0].col_offset) if before else (node.lineno, node.col_offset)
            yield start, (first.lineno, first.col_offset)


def sample(found: list[Mutant], most: int, seed: int) -> list[Mutant]:
    """One mutant from each of `most` equal shares."""
    if len(found) <= most:
        return found
    edges = [round(number * len(found) / most) for number in range(most + 1)]
    rng = random.Random(seed)
    return [found[rng.randrange(start, end)] for start, end in itertools.pairwise(edges)]


def forked(run: Run, seconds: float) -> tuple[int | None, Any]:
    """Call `run` in a fork: (its exit status, or None if it took too long; what it wrote to the path it is given)."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "answer")
        child = os.fork()
        if not child:
            code = BROKEN
            try:
                os.setsid()
                for number in (1, 2):
                    os.dup2(os.open(Path(folder, "log"), os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
                code = int(run(answer))
            finally:
                os._exit(code)
        code = waited(child, seconds)
        return code, json.loads(answer.read_text()) if answer.exists() else None


def waited(child: int, seconds: float) -> int | None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def carried_out(session: pytest.Session, items: list[pytest.Item], answer: Path) -> int:
    """Run `items` up to the first that fails; write its name."""
    for item, following in zip(items, [*items[1:], None], strict=True):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed:
            answer.write_text(json.dumps(item.nodeid))
            return 1
    return 0


def recorded(session: pytest.Session, path: Path, answer: Path) -> int:
    """Run all tests; write their seconds, and the tests that execute each line of the file."""
    tracer = coverage.Coverage(data_file=None, include=[str(path)], config_file=False)
    tracer.start()
    seconds = {}
    for item, following in zip(session.items, [*session.items[1:], None], strict=True):
        tracer.switch_context(item.nodeid)
        started = time.monotonic()
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        seconds[item.nodeid] = time.monotonic() - started
    tracer.stop()
    lines = tracer.get_data().contexts_by_lineno(str(path))
    answer.write_text(json.dumps({"seconds": seconds, "lines": {str(at): tests for at, tests in lines.items()}}))
    return session.testsfailed


def afresh(items: list[pytest.Item], answer: Path) -> int:
    """Import tfopt and the tests again, and run `items`."""
    for name in [name for name in sys.modules if name.split(".")[0] in ("tfopt", "tests", "conftest")]:
        del sys.modules[name]
    failed = Failed()
    code = pytest.main([*OPTIONS, "-x", *(item.nodeid for item in items)], plugins=[failed])
    answer.write_text(json.dumps(failed.name or "on import" if code else None))
    return int(code)


class Failed:
    """A pytest plugin that remembers the first test that fails."""

    name: str | None = None

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.name:
            self.name = report.nodeid


def codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for part in code.co_consts:
        if isinstance(part, CodeType):
            yield from codes(part)


def swap(path: Path, changed: str) -> None:
    """Give the functions of the file their code in `changed`, wherever they are known by now."""
    new = {(code.co_qualname, code.co_firstlineno): code for code in codes(compile(changed, str(path), "exec"))}
    for one in gc.get_objects():
        if isinstance(one, FunctionType) and one.__code__.co_filename == str(path):
            one.__code__ = new[one.__code__.co_qualname, one.__code__.co_firstlineno]


def statement(tree: ast.AST, line: int) -> tuple[range, bool]:
    """The lines of the statement at `line`, of a compound one those before its body; whether it is in a function."""
    found, inside = range(line, line + 1), False
    for node in ast.walk(tree):  # from the outside in
        body = getattr(node, "body", None)
        if isinstance(node, ast.stmt | ast.ExceptHandler):
            last = body[0].lineno - 1 if body else node.end_lineno
            lines = range(node.lineno, max(node.lineno, last or 0) + 1)
            found = lines if line in lines else found
        if isinstance(node, ast.FunctionDef):
            inside = inside or node.body[0].lineno <= line <= (node.end_lineno or 0)
    return found, inside


def compiles(source: str) -> bool:
    try:
        ast.parse(source)
    except SyntaxError:  # cosmic-ray takes the ** of {**one, **other} for a power
        return False
    return True


def difference(source: str, changed: str) -> tuple[str, str]:
    """The first lines that differ, before and after."""
    pairs = zip(source.splitlines(), changed.splitlines(), strict=False)
    return next(((one.strip(), other.strip()) for one, other in pairs if one != other), ("", ""))


class Mutation:
    """A pytest plugin that, instead of running the tests, runs them for each mutant."""

    def __init__(self, path: Path, chosen: list[Mutant], out: Path) -> None:
        self.path, self.chosen, self.out = path, chosen, out
        self.rows: list[dict[str, Any]] = []
        self.clean: dict[str, Any] = {}

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        code, self.clean = forked(lambda answer: recorded(session, self.path, answer), 3600)
        if code:
            raise click.ClickException(f"{code} tests fail without any change.")
        with self.out.open("w") as file:
            for mutant in self.chosen:
                self.rows.append(self.tried(mutant, session))
                print(json.dumps(self.rows[-1]), file=file, flush=True)
        return True

    def tried(self, mutant: Mutant, session: pytest.Session) -> dict[str, Any]:
        lines, inside = statement(ast.parse(self.path.read_text()), mutant.line)
        covering = {test for line in lines for test in self.clean["lines"].get(str(line), ())} if inside else set()
        items = [item for item in session.items if not covering or item.nodeid in covering]
        started = time.monotonic()
        with use_mutation(self.path, mutant.change, mutant.occurrence) as (source, changed):
            if not compiles(changed):
                return asdict(mutant) | {"outcome": "not Python"}

            def run(answer: Path) -> int:
                if not inside:
                    return afresh(items, answer)
                swap(self.path, changed)
                return carried_out(session, items, answer)

            seconds = sum(self.clean["seconds"][item.nodeid] for item in items)
            code, failed = forked(run, 3 * seconds + SLACK)
        if code == BROKEN:
            raise RuntimeError(f"Could not test {mutant}.")
        before, after = difference(source, changed)
        found = {"before": before, "after": after, "by": failed, "tests": len(items)}
        outcome = {0: "survived", None: "timed out"}.get(code, "killed")
        return asdict(mutant) | found | {"outcome": outcome, "s": round(time.monotonic() - started, 1)}


@click.command(help=__doc__, context_settings={"max_content_width": 120})
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@click.argument("tests", nargs=-1, required=True)
@click.option("--most", default=60, show_default=True, help="The most mutants.")
@click.option("--seed", default=0, show_default=True, help="Of the sample.")
@click.option("--out", type=click.Path(path_type=Path), default="mutants.jsonl", show_default=True)
@click.option("--survivors", is_flag=True, help="Only the mutants that survived according to --out.")
def main(path: Path, tests: tuple[str, ...], most: int, seed: int, out: Path, survivors: bool) -> None:
    path = path.resolve()
    found = mutants(path)
    chosen = sample(found, most, seed)
    if survivors:
        rows = [json.loads(row) for row in out.read_text().splitlines()]
        left = {(row["operator"], row["occurrence"]) for row in rows if row["outcome"] in ("survived", "timed out")}
        chosen = [one for one in found if (one.operator, one.occurrence) in left]
    mutation = Mutation(path, chosen, out)
    ended = pytest.main([*OPTIONS, *tests], plugins=[mutation])
    if ended not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise click.ClickException("The tests could not be collected, or fail.")
    outcomes = Counter(row["outcome"] for row in mutation.rows)
    seconds = round(sum(mutation.clean["seconds"].values()), 1)
    print(json.dumps({"file": path.name, "mutants": len(found), "tried": len(chosen), **outcomes, "clean_s": seconds}))


if __name__ == "__main__":
    main()
