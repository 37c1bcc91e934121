"""``restora`` is another name of ``pipeline``, which works beside a file of that name and from a clone."""

import ast
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

import pipeline
from pipeline import environment

ROOT = Path(pipeline.__file__).parents[1]
ALIAS = ROOT / "pipeline" / "alias"


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files of one's own that are called like the package and like modules of Python."""
    monkeypatch.setenv("PYTHONPATH", str(ALIAS))
    (tmp_path / "pipeline.py").write_text("steps = ['load']\n")
    return tmp_path


def python(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)


def test_a_script_beside_a_file_called_pipeline_imports_restora(beside):
    code = "import restora; from restora import Task; print(restora.__version__, Task.__module__, *dir(restora))"
    (beside / "use.py").write_text(code)
    done = python("use.py")
    assert done.stdout.split() == [
        environment.version_of("restora"), "pipeline.task.contract", *sorted([*pipeline.__all__, "__version__"])
    ], done.stderr  # fmt: skip


def test_whoever_imports_the_file_first_is_told_so(beside):
    (beside / "use.py").write_text("import pipeline, restora")
    assert "pipeline.py was imported as 'pipeline' before restora" in python("use.py").stderr.splitlines()[-1]


def test_the_module_is_the_command_beside_files_that_hide_modules(beside):
    for name in ("random", "typing_extensions", "numpy", "rich", "studies"):
        (beside / f"{name}.py").write_text("")
    done = python("-m", "restora", "--version")
    assert (done.returncode, done.stdout) == (0, f"restora {environment.version_of('restora')}\n"), done.stderr


def test_type_checkers_see_the_same_names():
    tree = ast.parse((ALIAS / "restora" / "__init__.pyi").read_text())
    names = [alias.asname for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert names == list(pipeline.__all__)


def test_the_version_of_a_clone_that_is_not_installed_is_read_from_it(monkeypatch):
    def missing(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(environment, "version", missing)
    assert f'version = "{environment.version_of("restora")}"' in (ROOT / "pyproject.toml").read_text()
    assert environment.version_of("timm") == "unknown"
    assert set(environment.versions.__wrapped__()) == {"python", *environment.PACKAGES}
