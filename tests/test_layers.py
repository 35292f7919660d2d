"""The four rules of the house, kept by walking the syntax trees of `aggfs/`.

1. Imports point down, type-only imports included; rooms of one floor never import each other.
   So do those between the rooms of the engine.
2. Pure rooms import nothing that touches the world.
3. One door for each foreign library.
4. Absolute imports, from the module that defines the name; `__init__.py` holds a docstring only.
"""

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "aggfs"
LINES_LIMIT = 450

FLOORS = {
    "cli": 7,
    "daemon": 6,
    "mount": 5,
    "assemble": 5,
    "engine": 4,
    "coding": 3,
    "sync": 3,
    "cache": 3,
    "config": 3,
    "formats": 2,
    "placement": 2,
    "stores": 2,
    "model": 1,
    "errors": 1,
    "threads": 1,
    "disk": 1,
}
# Inside `engine/`: what lies above `volume` is a feature, a verb of its own that the volume does
# not know. Modules that are not named here serve all rooms and import none of them.
ENGINE_FLOORS = {
    "recovery": 8,
    "change": 8,
    "moves": 7,
    "care": 6,
    "past": 6,
    "caching": 6,
    "members": 6,
    "report": 6,
    "waiting": 6,
    "volume": 5,
    "journal": 4,
    "pins": 4,
    "writing": 3,
    "reading": 2,
    "names": 1,
}
SHARED_FLOOR = 0
PURE_ROOMS = {"coding", "sync", "formats", "placement", "model", "errors"}
WORLDLY = {
    *("trio", "asyncio", "threading", "multiprocessing", "concurrent", "signal"),
    *("os", "pathlib", "shutil", "tempfile", "glob", "fcntl", "mmap", "subprocess"),
    *("time", "random", "secrets", "logging", "socket", "ssl", "http", "urllib", "select"),
    *("boto3", "botocore", "opendal", "lmdb", "pyfuse3", "click", "platformdirs", "xxhash"),
}
DOORS = {
    "boto3": ("stores/s3.py",),
    "botocore": ("stores/s3.py", "stores/s3_wire.py"),
    "cattrs": ("config.py",),
    "click": ("cli/",),
    "cryptography": ("coding/cipher.py", "coding/keys.py"),
    "lmdb": ("cache/database.py",),
    "mnemonic": ("coding/slots.py",),
    "platformdirs": ("cli/",),
    "pyfuse3": ("mount/", "daemon/"),
    "tomllib": ("config.py",),
    "xxhash": ("cache/",),
    "zfec": ("coding/erasure.py",),
    "zstandard": ("coding/",),
}
VAGUE_NAMES = {"utils", "util", "helpers", "common", "misc", "manager"}


@dataclass(frozen=True)
class Import:
    """One imported name: `from module import name`, or `import module` (name None)."""

    module: str
    name: str | None
    relative: bool
    line: int


@dataclass(frozen=True)
class Module:
    """A source file of the package; `path` is relative to it, as in `stores/s3.py`."""

    path: str
    source: str

    @property
    def tree(self) -> ast.Module:
        return parsed(self.source)

    @property
    def room(self) -> str:
        return self.path.split("/")[0].removesuffix(".py")

    @property
    def imports(self) -> Iterator[Import]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(alias.name, None, relative=False, line=node.lineno)
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    relative = node.level > 0
                    yield Import(node.module or "", alias.name, relative, node.lineno)

    @cached_property
    def defined_names(self) -> set[str]:
        """Names that statements of the module bind, those it merely imports left out."""
        names: set[str] = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                names.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
        return names


@cache
def parsed(source: str) -> ast.Module:
    return ast.parse(source)


@cache
def house() -> dict[str, Module]:
    return {
        path: Module(path, file.read_text("utf-8"))
        for file in sorted(PACKAGE.rglob("*.py"))
        for path in [file.relative_to(PACKAGE).as_posix()]
    }


def room_imported(imported: Import) -> str | None:
    """The room of ours that an import names, None for a foreign module."""
    parts = imported.module.split(".")
    if parts[0] != "aggfs":
        return None
    if len(parts) > 1:
        return parts[1]
    return imported.name


def upward_imports(module: Module) -> Iterator[str]:
    if module.path == "__init__.py":
        return
    floor = FLOORS.get(module.room)
    if floor is None:
        yield f"{module.path}: no floor is known for the room {module.room!r}"
        return
    for imported in module.imports:
        room = room_imported(imported)
        if room is None or room == module.room:
            continue
        if FLOORS.get(room, 99) >= floor:
            yield f"{module.path}:{imported.line}: {module.room} may not import {room}"


def upward_imports_in_engine(module: Module) -> Iterator[str]:
    if module.room != "engine":
        return
    room = module.path.split("/")[1].removesuffix(".py")
    for imported in module.imports:
        parts = imported.module.split(".")
        if parts[:2] != ["aggfs", "engine"]:
            continue
        other = parts[2] if len(parts) > 2 else str(imported.name)
        if other == room:
            continue
        below = ENGINE_FLOORS.get(other, SHARED_FLOOR) < ENGINE_FLOORS.get(room, SHARED_FLOOR)
        if not below and not {room, other}.isdisjoint(ENGINE_FLOORS):
            yield f"{module.path}:{imported.line}: engine.{room} may not import engine.{other}"


def worldly_imports(module: Module) -> Iterator[str]:
    if module.room not in PURE_ROOMS:
        return
    for imported in module.imports:
        if imported.module.split(".")[0] in WORLDLY:
            yield f"{module.path}:{imported.line}: a pure room imports {imported.module}"


def imports_beside_the_door(module: Module) -> Iterator[str]:
    for imported in module.imports:
        doors = DOORS.get(imported.module.split(".")[0])
        if doors is not None and not module.path.startswith(doors):
            yield f"{module.path}:{imported.line}: {imported.module} enters only by {doors}"


def indirect_imports(module: Module, modules: dict[str, Module]) -> Iterator[str]:
    for imported in module.imports:
        if imported.relative:
            yield f"{module.path}:{imported.line}: relative import"
        if imported.name is None or not imported.module.startswith("aggfs"):
            continue
        path = "/".join(imported.module.split(".")[1:])
        if {f"{path}/{imported.name}.py", f"{imported.name}.py"} & modules.keys():
            continue  # a module, imported from its package
        target = modules.get(f"{path}.py")
        if target is None or imported.name not in target.defined_names:
            where = f"{module.path}:{imported.line}"
            yield f"{where}: {imported.module} does not define {imported.name}"


def is_only_a_docstring(module: Module) -> bool:
    body = module.tree.body
    return len(body) == 1 and ast.get_docstring(module.tree) is not None


def test_imports_point_down():
    assert [fault for module in house().values() for fault in upward_imports(module)] == []


def test_imports_in_the_engine_point_down():
    faults = [fault for module in house().values() for fault in upward_imports_in_engine(module)]
    assert faults == []


def test_pure_rooms_touch_nothing_of_the_world():
    assert [fault for module in house().values() for fault in worldly_imports(module)] == []


def test_each_foreign_library_enters_by_one_door():
    faults = [fault for module in house().values() for fault in imports_beside_the_door(module)]
    assert faults == []


def test_imports_are_absolute_and_name_the_module_that_defines():
    modules = house()
    faults = [fault for module in modules.values() for fault in indirect_imports(module, modules)]
    assert faults == []


def test_an_init_file_holds_a_docstring_and_nothing_else():
    inits = [module for path, module in house().items() if path.endswith("__init__.py")]
    assert [module.path for module in inits if not is_only_a_docstring(module)] == []


def test_every_room_is_a_package():
    rooms = {file.parent for file in PACKAGE.rglob("*.py")}
    assert [room.name for room in rooms if not (room / "__init__.py").exists()] == []


def test_no_file_outgrows_its_room():
    sizes = {path: module.source.count("\n") for path, module in house().items()}
    assert {path: size for path, size in sizes.items() if size > LINES_LIMIT} == {}


def test_no_file_has_a_name_that_says_nothing():
    stems = {path: Path(path).stem for path in house()}
    assert [path for path, stem in stems.items() if stem in VAGUE_NAMES] == []


@pytest.mark.parametrize(
    ("rule", "path", "source"),
    [
        (upward_imports, "stores/s3.py", "from aggfs.engine.reading.fetch import fetch"),
        (upward_imports, "sync/merge.py", "import aggfs.cache.tree"),
        (upward_imports, "model.py", "from aggfs import errors"),
        (
            upward_imports,
            "coding/codec.py",
            "if TYPE_CHECKING:\n    from aggfs.engine.volume import Volume",
        ),
        (upward_imports, "attic/box.py", ""),
        (
            upward_imports_in_engine,
            "engine/reading/fetch.py",
            "from aggfs.engine.writing.stripes import Stripes",
        ),
        (upward_imports_in_engine, "engine/pool.py", "import aggfs.engine.names.paths"),
        (worldly_imports, "formats/record.py", "import os.path"),
        (worldly_imports, "coding/keys.py", "def f():\n    from secrets import token_bytes"),
        (imports_beside_the_door, "engine/reading/fetch.py", "import lmdb"),
        (imports_beside_the_door, "stores/registry.py", "from botocore.config import Config"),
    ],
)
def test_the_rules_notice_a_fault(
    rule: Callable[[Module], Iterator[str]], path: str, source: str
) -> None:
    assert len(list(rule(Module(path, source)))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "from . import errors",
        "from aggfs.stores.registry import Store",
        "from aggfs.stores import Store",
        "from aggfs.stores.absent import Store",
    ],
)
def test_the_rules_notice_a_detour(source: str) -> None:
    modules = {
        "stores/registry.py": Module("stores/registry.py", "from aggfs.stores.base import Store"),
        "engine/a.py": Module("engine/a.py", source),
    }
    assert len(list(indirect_imports(modules["engine/a.py"], modules))) == 1


def test_code_beside_the_docstring_of_an_init_file_is_noticed():
    assert not is_only_a_docstring(Module("a/__init__.py", '"""A."""\nimport os\n'))
