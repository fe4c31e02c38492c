"""The architecture holds: imports point down, and there is no circle, at any depth of folders."""

import ast
import graphlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# The rooms of each floor, lowest first; docs/architecture.md says what they are for. A file of a room imports files of
# lower floors and of its own room; rooms on the same floor do not know each other.
FLOORS = (
    ("errors",),
    ("base",),
    ("graph", "tasks"),
    ("bridge", "data"),
    ("models", "surgery", "training"),
    ("stages",),
    ("tflite",),
    ("evaluate", "teachers"),
    ("distillation", "transfer", "search"),
    ("extend", "inputs", "losses", "run"),
    ("cli", "self_taught"),
    ("__main__",),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS, 1) for room in rooms}
# Floors inside a room, lowest first.
INSIDE = {"tflite": ("settings", "read", "prove", "write")}


@dataclass(frozen=True)
class Arrow:
    """One import: `source` and `target` are modules, "tfopt.bridge.weights"; `place` is file and line in `source`."""

    source: str
    target: str
    place: str

    def __str__(self) -> str:
        return f"{self.place} imports {self.target}"


def modules(root: Path) -> dict[str, Path]:
    """The file of each module of tfopt under `root`, by dotted name; a package has the name of its folder."""
    paths = sorted((root / "tfopt").rglob("*.py"))
    return {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def arrows(root: Path) -> list[Arrow]:
    """Every import of tfopt in tfopt: at the top, in functions, for type checkers only, and by name."""
    known = modules(root)
    return [
        Arrow(source, target, f"{path.relative_to(root).as_posix()}:{line}")
        for source, path in known.items()
        for name, line in imported(ast.parse(path.read_text(encoding="utf-8")), source, path.name == "__init__.py")
        if (target := module_of(name, known)) is not None and target != source
    ]


def imported(tree: ast.Module, source: str, is_package: bool) -> Iterator[tuple[str, int]]:
    """(dotted name, line) of everything that `tree`, the module `source`, imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = source.split(".") if is_package else source.split(".")[:-1]
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from ((n.value, n.lineno) for n in node.args if isinstance(n, ast.Constant) and type(n.value) is str)


def module_of(name: str, known: dict[str, Path]) -> str | None:
    """The module that `name`, a module or something in one, comes from; None if it is not in tfopt."""
    parts = name.split(".")
    if parts[0] != "tfopt":
        return None
    return next(m for n in range(len(parts), 0, -1) if (m := ".".join(parts[:n])) in known)


def room(module: str) -> str:
    """The room of `module`; "" for tfopt itself, whose lazy names may come from anywhere."""
    return module.split(".")[1] if "." in module else ""


def climbs(found: list[Arrow]) -> list[str]:
    """The arrows that do not point down, in words."""
    said = []
    for arrow in found:
        above, below = room(arrow.source), room(arrow.target)
        if above == below or not above:
            continue
        high, low = FLOOR_OF[above], FLOOR_OF.get(below, len(FLOORS) + 1)
        if low >= high:
            said.append(f"{arrow}: {above or 'tfopt'} is on floor {high}, {below or 'tfopt'} on floor {low}")
    return said


def climbs_inside(found: list[Arrow]) -> list[str]:
    """The arrows that do not point down in a room that has floors, in words."""
    said = []
    for arrow in found:
        parts = INSIDE.get(room(arrow.source), ())
        ends = [module.split(".")[2:3] for module in (arrow.source, arrow.target)]
        if room(arrow.source) != room(arrow.target) or not parts or [] in ends:
            continue
        (above,), (below,) = ends
        if above != below and parts.index(below) > parts.index(above):
            said.append(f"{arrow}: in {room(arrow.source)}, {above} lies below {below}")
    return said


def circle(edges: dict[str, set[str]]) -> list[str]:
    """The nodes of one circle, in order, the first again at the end; [] if there is none."""
    try:
        graphlib.TopologicalSorter(edges).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])[::-1]
    return []


def circles(found: list[Arrow], known: dict[str, Path]) -> list[str]:
    """One circle between files, and one between the children of each folder, in words; [] if there are none.

    A folder within a folder counts as one child, with everything in it, `__init__.py` included.
    """
    folders = sorted({module.rpartition(".")[0] for module in known} - {""})
    said = [] if not (way := circle(_edges(found))) else [f"files: {' -> '.join(way)}"]
    for folder in folders:
        inside = [arrow for arrow in found if all(m.startswith(f"{folder}.") for m in (arrow.source, arrow.target))]
        depth = folder.count(".") + 2
        short = [Arrow(_upto(arrow.source, depth), _upto(arrow.target, depth), arrow.place) for arrow in inside]
        if way := circle(_edges(short)):
            said.append(f"in {folder}: {' -> '.join(way)}")
    return said


def _upto(module: str, depth: int) -> str:
    return ".".join(module.split(".")[:depth])


def _edges(found: list[Arrow]) -> dict[str, set[str]]:
    edges: dict[str, set[str]] = {}
    for arrow in found:
        if arrow.source != arrow.target:
            edges.setdefault(arrow.source, set()).add(arrow.target)
    return edges


@pytest.fixture(scope="module")
def house() -> list[Arrow]:
    found = arrows(ROOT)
    assert len(found) > 500  # an empty list would prove nothing
    return found


def test_every_room_has_a_floor():
    rooms = {room(module) for module in modules(ROOT)} - {""}
    assert rooms == FLOOR_OF.keys()
    assert [name for floor in FLOORS for name in floor] == list(FLOOR_OF)  # and only one


def test_imports_point_down(house):
    assert not climbs(house), "\n".join(climbs(house))
    assert not climbs_inside(house), "\n".join(climbs_inside(house))


def test_no_circle_closes(house):
    found = circles(house, modules(ROOT))
    assert not found, "\n".join(found)


# Files that import by a name in a variable, which `arrows` cannot follow, and the names in them.
BY_NAME = {
    *("tfopt", "tfopt.base.keras_compat", "tfopt.base.worker"),
    *("tfopt.cli.command", "tfopt.cli.running"),  # packages and recipes of the user
}
IMPORTERS = {"importlib", "import_module", "__import__", "imp", "runpy", "pkgutil", "exec", "eval"}


def importers(tree: ast.Module) -> set[str]:
    """The names in a file with which it could import by name, and "tfopt" if it imports the package as a whole."""
    found = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - {"tfopt"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module in IMPORTERS:
            found |= {alias.name for alias in node.names}
    return found & {*IMPORTERS, "tfopt"}


def test_only_some_files_import_by_name():
    found = {name for name, path in modules(ROOT).items() if importers(ast.parse(path.read_text(encoding="utf-8")))}
    assert found == BY_NAME


@pytest.mark.parametrize(
    "text",
    [
        "__import__('tfopt.models.load')",
        "from importlib import import_module as load\nload('tfopt.' + room)",
        "import importlib as i\ni.import_module(f'tfopt.{room}.load')",
        "from importlib import resources, import_module\nimport_module(name)",
        "import runpy\nrunpy.run_module('tfopt.models.load')",
        "exec('import tfopt.models.load')",
        "import tfopt.errors\ntfopt.optimize",
        "import tfopt",
    ],
)
def test_an_import_by_name_is_found(text):
    assert importers(ast.parse(text))


def test_resources_and_parts_of_the_package_are_no_imports_by_name():
    assert not importers(
        ast.parse("from importlib import resources\nfrom tfopt.errors import ModelError\nmodel.eval()")
    )


def test_the_page_lists_the_same_floors():
    """A row of the table in docs/architecture.md begins `| 3 | `graph/` |`."""
    told: dict[str, int] = {}
    for line in (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip(" `/") for cell in line.split("|")]
        if len(cells) > 3 and cells[1].isdigit():
            told[cells[2].removesuffix(".py")] = int(cells[1])
    assert told == FLOOR_OF


@pytest.fixture
def small_house(tmp_path):
    """A function that writes modules by dotted name and returns what is found in them."""

    def build(**sources):
        for name, text in {"tfopt": "", **sources}.items():
            parts = name.replace("__", ".").split(".")
            folder = tmp_path.joinpath(*parts)
            is_package = name == "tfopt" or (parts[-1] in FLOOR_OF and parts[-1] != "errors")
            path = folder / "__init__.py" if is_package else folder.with_suffix(".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return arrows(tmp_path), modules(tmp_path)

    return build


@pytest.mark.parametrize(
    "text",
    [
        "from tfopt.models.load import load_model",
        "import tfopt.models.load",
        "from tfopt import models",
        "from ..models import load",
        "def later():\n    from tfopt.models.load import load_model",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from tfopt.models import load",
        "import importlib\nload = importlib.import_module('tfopt.models.load')",
    ],
)
def test_a_climb_is_found_and_named(small_house, text):
    sources = {"tfopt__models": "", "tfopt__models__load": "def load_model(): ...", "tfopt__bridge": ""}
    found, _ = small_house(**sources, tfopt__bridge__weights=text)
    (said,) = climbs(found)
    line = len(text.splitlines()) if "\n" in text else 1
    assert said.startswith(f"tfopt/bridge/weights.py:{line} imports tfopt.models")
    assert said.endswith("bridge is on floor 4, models on floor 5")


def test_rooms_side_by_side_do_not_know_each_other(small_house):
    found, _ = small_house(tfopt__bridge="", tfopt__data="", tfopt__data__load="from tfopt import bridge")
    assert climbs(found) == ["tfopt/data/load.py:1 imports tfopt.bridge: data is on floor 4, bridge on floor 4"]


def test_no_file_takes_from_the_lazy_names_at_the_top(small_house):
    found, _ = small_house(tfopt__cli="", tfopt__cli__running="from tfopt import optimize")
    assert climbs(found) == ["tfopt/cli/running.py:1 imports tfopt: cli is on floor 11, tfopt on floor 13"]


def test_what_points_down_is_no_climb(small_house):
    found, known = small_house(
        tfopt__errors="", tfopt__base="", tfopt__base__files="from tfopt.errors import DataError"
    )
    assert [str(arrow) for arrow in found] == ["tfopt/base/files.py:1 imports tfopt.errors"]
    assert climbs(found) == circles(found, known) == []


def test_circles_of_files_and_folders_are_found(small_house):
    found, known = small_house(
        tfopt__base="", tfopt__base__a="from tfopt.base import b", tfopt__base__b="from tfopt.base.a import x"
    )
    assert climbs(found) == []
    assert circles(found, known)[0] == "files: tfopt.base.a -> tfopt.base.b -> tfopt.base.a"
    found, known = small_house(
        tfopt__base__a="",
        tfopt__base__b="",
        tfopt__base__one__a="from tfopt.base.two import b",
        tfopt__base__one__c="",
        tfopt__base__two__b="from tfopt.base.one import c",
    )
    assert circles(found, known) == ["in tfopt.base: tfopt.base.one -> tfopt.base.two -> tfopt.base.one"]


def test_tflite_is_written_after_it_is_proved_and_proved_after_it_is_read(small_house):
    found, _ = small_house(
        tfopt__tflite="", tfopt__tflite__write__w="from tfopt.tflite.read import r", tfopt__tflite__prove__p="",
        tfopt__tflite__read__r="from tfopt.tflite.prove.p import x",
    )  # fmt: skip
    assert climbs_inside(found) == [
        "tfopt/tflite/read/r.py:1 imports tfopt.tflite.prove.p: in tflite, read lies below prove"
    ]
