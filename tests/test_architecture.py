"""The house of docs/architecture.md: which module may import which, and what stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = [
    {"console", "instructions"},
    {"input_files"},
    {"hub", "event_files"},
    {"datasets_reader"},
    {"text_tokenizer"},
    {"command_line", "run_folder"},
    {
        "settings",
        "vocabulary",
        "metrics",
        "plots",
        "blocks",
        "augmentation",
        "muon",
        "naive_bayes",
        "weight_average",
        "row_cache",
        "benchmark_report",
    },
    {"classifier_head", "image_files"},
    {"pretrained"},
    {"lora"},
    {"rows"},
    {"dataset", "prepared_folder", "image_tokens", "model", "calibration", "benchmark_work"},
    {
        "checkpoint",
        "text_files",
        "leaks",
        "baselines",
        "generation",
        "evaluation",
        "training_step",
        "model_folder",
        "benchmark_peers",
    },
    {"answers"},
    {"data_report", "evaluation_report", "prepare_text"},
    {"prepare_data", "train_gpt", "inference"},
    {"benchmark"},
]
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}
COMMANDS = ("train_gpt.py", "inference.py", "prepare_data.py", "benchmark.py")


def imported_modules(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.split(".")[0])
    return names


def test_every_module_has_a_floor():
    assert {path.stem for path in ROOT.glob("*.py")} == set(FLOOR_OF)


@pytest.mark.parametrize("name", sorted(FLOOR_OF))
def test_module_imports_only_from_floors_below(name):
    own = imported_modules(ROOT / f"{name}.py") & FLOOR_OF.keys()
    assert {other for other in own if FLOOR_OF[other] >= FLOOR_OF[name]} == set()


@pytest.mark.parametrize("name", sorted(FLOOR_OF))
def test_module_shadows_no_library(name):
    libraries = {"datasets", "tokenizers", "evaluate", "peft", "torch", "transformers"}
    assert name not in libraries | set(sys.stdlib_module_names)


@pytest.mark.parametrize("command", COMMANDS)
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
