"""The rules that hold the house together; ``docs/architecture.md`` is their map."""

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PIPELINE = ROOT / "pipeline"
LONGEST, SHORTEST, MOST_PARAMETERS = 300, 40, 6
REGISTERED = re.compile(r"^(@?\w+\.register|@app\.command)\(", re.MULTILINE)
"""What marks the file of a registered method or of a verb."""
VERB = re.compile(r"^app\.command\(")


def flow() -> list[set[str]]:
    """The rooms of the map, one set per row; a room may import from the rows above its own."""
    _, _, after = (ROOT / "docs" / "architecture.md").read_text().partition("<!-- rooms -->")
    rows = [line.split("|")[1] for line in after.partition("<!-- /rooms -->")[0].splitlines() if "`" in line]
    return [set(re.findall(r"`(\w+)`", row)) for row in rows]


FLOW = flow()
LEVEL = {name: level for level, names in enumerate(FLOW) for name in names}
MODULES = sorted(path for path in PIPELINE.rglob("*.py") if path != PIPELINE / "__init__.py")


def home(path: Path) -> str:
    return path.relative_to(PIPELINE).parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> set[str]:
    """Names of all modules that are imported anywhere; what only a type checker reads is not."""
    names: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        names |= imported(node)
    return names


def test_every_module_has_its_place_in_the_flow():
    assert {home(path) for path in MODULES} == set(LEVEL)


def test_the_files_that_the_map_names_exist():
    paths = re.findall(r"`(pipeline/[\w/.]*)`", (ROOT / "docs" / "architecture.md").read_text())
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert paths


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PIPELINE)))
def test_imports_run_one_way_down_the_data_flow(path):
    inside = {name.split(".")[1] for name in imported(ast.parse(path.read_text())) if name.startswith("pipeline.")}
    wrong = {name for name in inside if name != home(path) and LEVEL[name] > LEVEL[home(path)]}
    assert not wrong, f"{path.relative_to(PIPELINE)} imports {', '.join(sorted(wrong))}, which comes after it"


IMPORTING = """
import importlib, pkgutil, sys
room = importlib.import_module(sys.argv[1])
for module in pkgutil.iter_modules(room.__path__):
    if module.name != "__main__":
        importlib.import_module(f"{room.__name__}.{module.name}")
print(sorted({"torch", "timm", "torchvision"} & sys.modules.keys()))
"""


@pytest.mark.parametrize("room", ["pipeline.cli", "pipeline.results"])
def test_no_file_of_the_verbs_and_the_results_imports_torch(room):
    command = [sys.executable, "-c", IMPORTING, room]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("module", ["pipeline", "pipeline.config.spec", "pipeline.hashes"])
def test_torch_is_not_imported_before_it_is_needed(module):
    code = f"import sys, {module}; sys.exit(any(name.split('.')[0] in ('torch', 'timm') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_nothing_in_the_pipeline_imports_what_lies_outside_it():
    names = {name.split(".")[0] for path in MODULES for name in imported(ast.parse(path.read_text()))}
    assert not names & {"tests", "scripts", "studies", "examples"}


def test_no_two_files_have_one_name():
    names = Counter(path.name for path in MODULES if path.name not in ("__init__.py", "__main__.py", "contract.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_no_file_is_too_long():
    paths = [(path, LONGEST) for path in MODULES]
    paths += [(path, LONGEST) for path in (ROOT / "tests").rglob("*.py")]
    long = {str(path.relative_to(ROOT)): lines(path) for path, most in paths if lines(path) > most}
    assert long == {}


def test_no_file_is_a_shard():
    """A file below 40 lines joins its neighbour, unless it is a method, a verb, a contract or a noun of its own."""
    allowed = {"__init__.py", "__main__.py", "contract.py", "errors.py", "seeds.py"}
    short = [path for path in MODULES if lines(path) < SHORTEST and path.name not in allowed]
    assert [str(path.relative_to(PIPELINE)) for path in short if not REGISTERED.search(path.read_text())] == []


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name and number of parameters of each function in a file, ``self`` and ``cls`` not counted.

    Verbs are left out: their parameters are the options of a command.
    """
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if any(VERB.match(ast.unparse(decorator)) for decorator in node.decorator_list):
                continue
            names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            variadic = [argument for argument in (node.args.vararg, node.args.kwarg) if argument is not None]
            yield node.name, len([name for name in names if name not in ("self", "cls")]) + len(variadic)


def test_no_function_has_more_than_six_parameters():
    counts = {f"{path.relative_to(PIPELINE)}: {name}": count for path in MODULES for name, count in functions(path)}
    del counts["compress/attention.py: forward"]  # it takes what the forward of torch's attention takes
    assert {name: count for name, count in counts.items() if count > MOST_PARAMETERS} == {}


@pytest.mark.parametrize(
    ("library", "only"), [("optuna", "store/optuna_tables.py"), ("optuna_dashboard", "dashboard/pages.py")]
)
def test_private_parts_of_a_library_are_used_in_one_file(library, only):
    """Imports of private modules and names, and private attributes of Optuna's studies and trials."""
    attributes = {"_storage", "_study_id", "_trial_id", "_backend"} if library == "optuna" else set()
    for path in MODULES:
        tree = ast.parse(path.read_text())
        private = {
            name
            for name in imported(tree)
            if name.split(".")[0] == library and any(part.startswith("_") for part in name.split("."))
        }
        private |= {
            ast.unparse(node)
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and node.attr in attributes and ast.unparse(node.value) != "self"
        }
        assert not private or path == PIPELINE / only, f"{path.relative_to(PIPELINE)} uses {', '.join(sorted(private))}"
