"""The house of docs/architecture.md: which room may import which, and what stays light."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = (
    "train_gpt.py", "inference.py", "prepare_data.py", "export_model.py", "serve.py",
    "benchmark.py",
)  # fmt: skip
# A room imports only itself and rooms above it; rooms of one line never import one another.
HOUSE = (
    ("exit_codes", "distribution"),
    ("errors",),
    ("console",),
    ("files",),
    ("command",),
    ("processes",),
    ("options",),
    ("charts",),
    ("tokens",),
    ("rows",),
    ("inputs",),
    ("model",),
    ("decoding", "graphs"),
    ("engines",),
    ("evaluation",),
    ("checks", "preparation", "training", "inference"),
    ("export",),
    ("serving",),
    ("benchmark",),
)
FLOORS = {room: floor for floor, rooms in enumerate(HOUSE) for room in rooms}


def modules() -> dict[str, ast.Module]:
    """Every module of the package and every script, parsed."""
    paths = [*ROOT.glob("smallgpt/**/*.py"), *(ROOT / name for name in SCRIPTS)]
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): ast.parse(path.read_text("utf-8"))
        for path in paths
    }


MODULES = modules()


def room_of(module: str) -> str:
    """The room of a module of the package, the module itself where it lies in no room."""
    return module.split(".")[1]


def imports_of(module: str) -> list[tuple[str, str]]:
    """What a module imports, wherever it does: the module and the name taken from it."""
    found = []
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.append((whole, "") if whole in MODULES else (node.module, alias.name))
    return [(name, taken) for name, taken in found if name in MODULES]


PACKAGE = sorted(name for name in MODULES if name.startswith("smallgpt."))


def test_every_module_lies_in_a_room():
    assert {room_of(name) for name in PACKAGE if not name.endswith("__init__")} == set(FLOORS)
    flat = {path.name for path in ROOT.glob("*.py")}
    assert flat == set(SCRIPTS)


def test_the_package_names_its_rooms_in_order():
    lines = ast.get_docstring(MODULES["smallgpt.__init__"]).splitlines()
    named = [line.strip().split("  ")[0] for line in lines if line.startswith("    ")]
    assert ", ".join(named).split(", ") == [room for rooms in HOUSE for room in rooms]


def test_an_init_file_holds_its_docstring_alone():
    for name, tree in MODULES.items():
        if name.endswith("__init__"):
            assert len(tree.body) == 1 and ast.get_docstring(tree), name


@pytest.mark.parametrize("module", [name for name in PACKAGE if not name.endswith("__init__")])
def test_room_imports_only_rooms_above_it(module):
    own = room_of(module)
    wrong = {
        (module, other)
        for other, _ in imports_of(module)
        if other.split(".")[0] != "smallgpt"
        or (room_of(other) != own and FLOORS[room_of(other)] >= FLOORS[own])
    }
    assert wrong == set()


def test_modules_import_one_another_in_no_circle():
    try:
        TopologicalSorter({name: {o for o, _ in imports_of(name)} for name in MODULES}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_nothing_imports_a_script():
    scripts = {name.removesuffix(".py") for name in SCRIPTS}
    assert {(m, o) for m in MODULES for o, _ in imports_of(m) if o in scripts} == set()


def test_no_private_name_is_imported():
    private = {
        (other, name) for m in MODULES for other, name in imports_of(m) if name.startswith("_")
    }
    assert private == set()


def loaded_by(module: str) -> set[str]:
    """What loading a module loads at once: modules of the package, and names of libraries."""
    found, left = set(), [module]
    while left:
        here = left.pop()
        body = MODULES[here].body if here in MODULES and here not in found else []
        found.add(here)
        for node in body:
            if isinstance(node, ast.Import):
                left += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                left += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def test_the_answer_to_a_prompt_waits_for_no_library_that_it_does_not_need():
    loaded = loaded_by("smallgpt.inference.interactive") | loaded_by("smallgpt.engines.trained")
    assert "numpy" in loaded
    heavy = ("torch", "transformers", "matplotlib", "sklearn", "scipy.stats", "scipy.optimize")
    assert [name for name in loaded if name.startswith(heavy)] == []


@pytest.mark.parametrize("command", SCRIPTS)
def test_help_answers_without_heavy_imports(command):
    program = (
        "import runpy, sys\n"
        f"sys.argv = [{command!r}, '--help']\n"
        "try:\n"
        f"    runpy.run_path({command!r}, run_name='__main__')\n"
        "except SystemExit as leaving:\n"
        "    assert leaving.code == 0, leaving.code\n"
        "heavy = {'torch', 'transformers', 'numpy', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--help" in done.stdout
