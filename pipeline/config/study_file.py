"""Study files: where they are, how they are read, and which of their values are pinned in a stored study."""

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.config.candidates import Auto
from pipeline.config.combination_spec import PLAIN, CombinationSpec
from pipeline.config.fields import SAFE_NAME
from pipeline.config.registry import Compression
from pipeline.config.spec import StudySpec
from pipeline.config.table import nearest
from pipeline.errors import SpecError, UsageError
from pipeline.paths import read_text, write_text
from pipeline.wording import few


def pinned(spec: StudySpec, combination: CombinationSpec) -> dict[str, Any]:
    """The values of a combination that may not change while its stored study grows, as a JSON-able table.

    The budget of trials, the number of the winners' seeds, the spectra and the data's folders may change.
    """
    table = spec.model_dump(mode="json", exclude={"combination", "seeds", "name", "spectra", "storage", "search"})
    table["search"] = combination.searched(spec.search).model_dump(mode="json", exclude={"trials"})
    unsaid = {"storage"} if combination.storage in (None, PLAIN) else None  # as in versions without it
    table["combination"] = combination.model_dump(mode="json", exclude=unsaid)
    for option in spec.task.data.location:
        table["task"]["data"].pop(option, None)
    return table


def upgraded(table: dict[str, Any]) -> dict[str, Any]:
    """A pinned table of an earlier version, in today's form: with the defaults of newer options, without retired ones.

    The default of an option is what versions without it did, so a stored study continues as it began. A table that is
    not valid any more is returned as it is, so that its differences can be shown.
    """
    try:
        search = {**table["search"], "trials": 10**6}
        whole = {**table, "search": search, "combination": [table["combination"]], "name": "stored"}
        spec = StudySpec.model_validate(whole)
    except (KeyError, TypeError, ValidationError):
        return table
    return pinned(spec, spec.combination[0])


def as_begun(spec: StudySpec, begun: Mapping[str, dict[str, Any]]) -> StudySpec:
    """A study with the options that its stored combinations were pinned with, where the file says "auto".

    ``begun`` has the pinned tables by combination. Where none of the candidates is stored, the first is taken, so that
    the differences can be shown.
    """

    def chosen(one: CombinationSpec) -> CombinationSpec:
        if one.name not in begun:
            return one
        stored = upgraded(begun[one.name])
        if one.autos:
            known = [_same(auto, stored["combination"]) for auto in one.autos]
            one = one.having(known)
        if spec.search.init_candidates:
            found = [init for init in spec.search.init_candidates if [init.model_dump()] == stored["search"]["inits"]]
            one = one.starting((found or spec.search.inits)[0])
        return one

    return spec.model_copy(update={"combination": tuple(map(chosen, spec.combination))})


def _same(auto: Auto[Compression], stored: dict[str, Any]) -> Compression:
    """The candidate that is in the stored table of a combination; the first if none is."""
    table = stored if auto.entry is None else dict(enumerate(stored["targets"])).get(auto.entry)
    same = [
        one.config
        for one in auto.candidates
        if isinstance(table, dict) and one.config.model_dump(mode="json") == table.get("compression")
    ]
    return (same or [auto.candidates[0].config])[0]


def study_file(study: str | Path) -> Path:
    """The path of a study file, given that path or the name of a study in ``studies/``."""
    path = Path(study)
    return path if path.suffix == ".toml" else Path("studies") / f"{study}.toml"


def stored_name(study: str) -> str:
    """The name under which a study is stored; its file may be missing or invalid."""
    path = study_file(study)
    return str(parse_toml(study_text(path), path).get("name", path.stem)) if path.exists() else path.stem


def study_text(path: Path) -> str:
    """The text of a study file.

    Raises:
        SpecError: The file does not exist, cannot be read, or is not UTF-8.
    """
    try:
        return read_text(path)
    except FileNotFoundError:
        others = [one for folder in dict.fromkeys((path.parent, Path("studies"))) for one in folder.glob("*.toml")]
        near = nearest(path.stem, [other.stem for other in others])
        raise SpecError(f"study file {path} not found{near}; `restora new NAME` writes one") from None
    except OSError as error:
        raise SpecError(f"cannot read study file {path}: {error.strerror}; `restora new NAME` writes one") from None
    except ValueError as error:
        raise SpecError(f"cannot read study file {path}: {error}") from None


def parse_toml(text: str, path: Path) -> dict[str, Any]:
    """The table of a study file's text; a ``SpecError`` names its ``path``."""
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also a number of 5,000 digits, and 1,000 brackets
        raise SpecError(f"{path} is not valid TOML: {error}") from None


def load_spec(study: str | Path, seed: int | None = None) -> StudySpec:
    """Read and validate a study file.

    Args:
        study: The path of a TOML file, or the name of a study in ``studies/``.
        seed: Replaces the file's ``seed``.

    Raises:
        SpecError: The file does not exist, is not UTF-8 or TOML, or has errors; the message has a line for each.
    """
    path = study_file(study)
    table = parse_toml(study_text(path), path)
    if seed is not None:
        table["seed"] = seed
    return parse_spec({"name": path.stem, **table}, str(path))


def write_template(name: str) -> Path:
    """Write ``studies/<name>.toml``, a commented study file to fill in.

    Raises:
        UsageError: The name cannot be a file's name, or the file exists.
    """
    name = name.removesuffix(".toml")
    if not re.fullmatch(SAFE_NAME, name):
        raise UsageError(f"'{name}' is not a valid study name; give up to 64 letters, digits, '.', '_' and '-'")
    path = Path("studies") / f"{name}.toml"
    if path.exists():
        raise UsageError(f"{path} already exists; choose another name, or edit it")
    write_text(path, read_text(Path(__file__).with_name("template.toml")).replace("STUDY_NAME", name))
    return path


def parse_spec(table: dict[str, Any], source: str) -> StudySpec:
    """Validate a study's table, as ``tomllib`` reads it; messages name the ``source`` it was read from.

    Raises:
        SpecError: It has errors; the message has a line for each, with its key, its value and what is allowed.
    """
    try:
        return StudySpec.model_validate(table)
    except ValidationError as error:
        lines = _faults(error, table)
        raise SpecError(f"{source}: {len(lines)} error{'s' * (len(lines) > 1)}\n" + "\n".join(lines)) from None


def _faults(error: ValidationError, table: dict[str, Any]) -> list[str]:
    """A line for each fault, with its key and value; one that several combinations have is a single line."""
    having: dict[tuple[bool, str, str], dict[str, None]] = {}
    for line in error.errors(include_url=False):
        combination, key = _place(line["loc"], table)
        missing = line["type"] == "missing"
        said = ": required, and not given" if missing else f" = {_shown(line['input'])}: {line['msg']}"
        having.setdefault((bool(combination), key, said), {})[combination] = None
    return [f"  {_key(list(names), key)}{said}" for (_, key, said), names in having.items()]


def _place(location: tuple[int | str, ...], table: dict[str, Any]) -> tuple[str, str]:
    """The combination that an error is in, as ``'int1-lora'`` or ``no. 2``, empty for others; and its key there."""
    first, *rest = location or ("study",)
    if first != "combination" or not rest:
        return "", ".".join(map(str, (first, *rest)))
    index = int(rest.pop(0))
    given = table["combination"][index]
    named = isinstance(given, dict) and isinstance(given.get("name"), str) and rest != ["name"]
    return repr(given["name"]) if named else f"no. {index + 1}", ".".join(map(str, rest))


def _key(combinations: list[str], key: str) -> str:
    """``search.epochs``, ``combination 'int1-lora'.compression``, ``combinations 'a' and 'b': compression``."""
    if len(combinations) > 1:
        return ": ".join(filter(None, (f"combinations {few(combinations, 10)}", key)))
    (combination,) = combinations
    return ".".join(filter(None, (combination and f"combination {combination}", key)))


def _shown(value: object) -> str:
    """A value of a study file in a message, at most 60 characters long."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
