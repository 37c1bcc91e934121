import ast
import subprocess
import sys
from pathlib import Path

import pytest

PIPELINE = Path(__file__).parents[1] / "pipeline"

# Each line may import from the lines above it, and from its own.
FLOW = [
    {"errors"},
    {"seeds", "paths", "environment", "wording", "cell", "numbers", "hashes", "locks", "guard"},
    {"config"},
    {"space"},
    {"task"},
    {"compress"},
    {"adapt"},
    {"train"},
    {"objective"},
    {"store"},
    {"results"},
    {"search"},
    {"run"},
    {"export", "report"},
    {"dashboard", "terminal"},
    {"cli"},
]
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


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PIPELINE)))
def test_imports_run_one_way_down_the_data_flow(path):
    inside = {name.split(".")[1] for name in imported(ast.parse(path.read_text())) if name.startswith("pipeline.")}
    wrong = {name for name in inside if name != home(path) and LEVEL[name] > LEVEL[home(path)]}
    assert not wrong, f"{path.relative_to(PIPELINE)} imports {', '.join(sorted(wrong))}, which comes after it"


@pytest.mark.parametrize(
    "module", ["pipeline", "pipeline.cli", "pipeline.results.stored_results", "pipeline.config.spec"]
)
def test_torch_is_not_imported_before_it_is_needed(module):
    code = f"import sys, {module}; sys.exit(any(name.split('.')[0] in ('torch', 'timm') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=PIPELINE.parent, check=False).returncode == 0


def test_nothing_in_the_pipeline_imports_what_lies_outside_it():
    names = {name.split(".")[0] for path in MODULES for name in imported(ast.parse(path.read_text()))}
    assert not names & {"tests", "scripts", "studies"}


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
