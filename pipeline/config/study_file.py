"""Study files: found, read and validated, every error at once; and what of them is pinned in a stored study."""

import json
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.config.combination_spec import CombinationSpec
from pipeline.config.spec import StudySpec
from pipeline.config.table import nearest
from pipeline.errors import SpecError


def pinned(spec: StudySpec, combination: CombinationSpec) -> dict[str, Any]:
    """What may not change while a stored study grows; budget, seeds of the winners, spectra and folders may."""
    table = spec.model_dump(mode="json", exclude={"combination", "seeds", "name", "spectra"})
    table["combination"] = combination.model_dump(mode="json")
    del table["search"]["trials"]
    for where_from in ("root", "download"):
        table["task"]["data"].pop(where_from, None)
    return table


def upgraded(table: dict[str, Any]) -> dict[str, Any]:
    """A pinned table of an earlier version, with the defaults of options that it did not know yet.

    An option's default is what versions without it did, so such a study goes on as it began.
    """
    try:
        search = {**table["search"], "trials": 10**6}
        whole = {**table, "search": search, "combination": [table["combination"]], "name": "stored"}
        spec = StudySpec.model_validate(whole)
    except (KeyError, TypeError, ValidationError):
        return table  # the differences will be shown
    return pinned(spec, spec.combination[0])


def study_file(study: str | Path) -> Path:
    """The path of a study file, given that path or the name of a study in ``studies/``."""
    path = Path(study)
    return path if path.suffix == ".toml" else Path("studies") / f"{study}.toml"


def stored_name(study: str) -> str:
    """The name under which a study is stored; its file need not be there any more, nor be valid."""
    path = study_file(study)
    if not path.is_file():
        return path.stem
    try:
        return str(tomllib.loads(path.read_text()).get("name", path.stem))
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{path} is not valid TOML: {error}") from None


def load_spec(study: str | Path, seed: int | None = None) -> StudySpec:
    """Read and validate a study file.

    Args:
        study: The path of a TOML file, or the name of a study in ``studies/``.
        seed: Replaces the file's ``seed``.

    Raises:
        SpecError: The file does not exist, is not TOML, or has errors; the message has a line for each of them.
    """
    path = study_file(study)
    try:
        table = tomllib.loads(path.read_text())
    except FileNotFoundError:
        near = nearest(path.stem, [other.stem for other in path.parent.glob("*.toml")])
        raise SpecError(f"study file {path} not found{near}; `restora new NAME` writes one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"cannot read study file {path}: {error}; `restora new NAME` writes one") from None
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{path} is not valid TOML: {error}") from None
    if seed is not None:
        table["seed"] = seed
    return parse_spec({"name": path.stem, **table}, str(path))


def parse_spec(table: dict[str, Any], source: str) -> StudySpec:
    """Validate a study's table; ``source`` names it in messages."""
    try:
        return StudySpec.model_validate(table)
    except ValidationError as error:
        lines = [
            f"  {_place(line['loc'], table)} = {_shown(line['input'])}: {line['msg']}"
            if line["type"] != "missing"
            else f"  {_place(line['loc'], table)}: required, and not given"
            for line in error.errors(include_url=False)
        ]
        raise SpecError(f"{source}: {len(lines)} error{'s' * (len(lines) > 1)}\n" + "\n".join(lines)) from None


def _place(location: tuple[int | str, ...], table: dict[str, Any]) -> str:
    """Where an error is: ``search.epochs``, ``combination 'int1-lora'.compression``, ``combination no. 2.name``."""
    first, *rest = location or ("study",)
    if first == "combination" and rest:
        place = int(rest.pop(0))
        given = table["combination"][place]
        named = isinstance(given, dict) and isinstance(given.get("name"), str) and rest != ["name"]
        first = f"combination {given['name']!r}" if named else f"combination no. {place + 1}"
    return ".".join(map(str, (first, *rest)))


def _shown(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
