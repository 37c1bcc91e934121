"""Write the tables of ``docs/methods.md`` from the registries: ``python scripts/method_tables.py``.

Each table stands between ``<!-- table: <kind> -->`` and ``<!-- end -->``, where the kind is a heading of
``restora ls``. Names, options, types and defaults are those of the registered classes; the words are the first line of
each docstring.
"""

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from pipeline.config.fields import Range
from pipeline.config.registry import REGISTRIES, Method
from pipeline.config.table import Config

PAGE = Path(__file__).parents[1] / "docs" / "methods.md"
TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
SCALARS = {int: "whole number", float: "number", str: "text"}
BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "min_length": "length at least"}


def page_with_tables(page: str) -> str:
    """The page with every table between its markers written anew."""
    return TABLE.sub(lambda match: match[1] + table(match[2]) + match[3], page)


def table(kind: str) -> str:
    """The table of one registry: a row per method, and below it a row per option; options of several methods last."""
    lines = ["| method | option | values | default | meaning |", "|---|---|---|---|---|"]
    methods, shared = list(REGISTRIES[kind]), dict[type, list[type[Method]]]()
    for method in methods:
        for owner in dict.fromkeys(_owner(method, name) for name in method.model_fields):
            if owner not in methods:
                shared.setdefault(owner, []).append(method)
    shared = {owner: inheriting for owner, inheriting in shared.items() if len(inheriting) > 1}
    for method in methods:
        lines.append(_row(f"`{method.name}`", "", "", "", method.summary()))
        lines += _options(method, [name for name in method.model_fields if _owner(method, name) not in shared])
    for owner, inheriting in shared.items():
        names = ", ".join(f"`{method.name}`" for method in inheriting)
        lines.append(_row(names, "", "", "", "Each of these also has the options below."))
        lines += _options(owner, [name for name in inheriting[0].model_fields if _owner(inheriting[0], name) is owner])
    return "\n".join(lines) + "\n"


def _owner(method: type[Method], option: str) -> type:
    """The class that declares an option as the method has it."""
    return next(owner for owner in method.__mro__ if option in vars(owner).get("__annotations__", {}))


def _options(owner: type[Method], names: Sequence[str]) -> list[str]:
    """A row for each of some options of a class."""
    docs, fields = _option_docs(owner), {name: owner.model_fields[name] for name in names}
    return [
        _row("", f"`{name}`", _values(field.annotation, field), _default(field), docs.get(name, ""))
        for name, field in fields.items()
    ]


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("``", "`").replace("|", "\\|") for cell in cells) + " |"


def _option_docs(method: type[Method]) -> dict[str, str]:
    """The docstring of each option, which is the string after its field, from the class and those it inherits from."""
    docs: dict[str, str] = {}
    for owner in reversed(method.__mro__):
        if not issubclass(owner, Config):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        assert isinstance(tree, ast.ClassDef)
        for field, text in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
                assert isinstance(text.value, ast.Constant)
                docs[field.target.id] = " ".join(str(text.value.value).split())
    return docs


def _values(annotation: Any, field: FieldInfo) -> str:
    """What an option may be, in the words of a study file."""
    origin, inner = get_origin(annotation), [item for item in get_args(annotation) if item is not NoneType]
    if origin is Literal:
        return ", ".join(f"`{json.dumps(choice)}`" for choice in inner)
    if origin in (Union, UnionType):
        return _values(inner[0], field)
    if origin is tuple:
        return f"list of {_values(inner[0], FieldInfo()).replace('number', 'numbers')}"
    if origin is Annotated:
        return _values(inner[0], FieldInfo())
    if annotation is bool:
        return "`false`, `true`"
    if annotation is Range:
        return "number, or a range"
    if issubclass(annotation, Method):
        return next(reg.noun for reg in REGISTRIES.values() if any(issubclass(method, annotation) for method in reg))
    if issubclass(annotation, Config):
        inner_fields = annotation.model_fields.items()
        return "table: " + "; ".join(f"`{name}` {_values(inner.annotation, inner)}" for name, inner in inner_fields)
    limits = {key: getattr(item, key) for item in field.metadata for key in BOUNDS if hasattr(item, key)}
    bounds = [f"{BOUNDS[key]} {limit}" for key, limit in limits.items()]
    return ", ".join([SCALARS[annotation], *bounds])


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default()
    if default is None:
        return "not given"
    return f"`{json.dumps(default.name if isinstance(default, Method) else default)}`"


def main() -> None:
    PAGE.write_text(page_with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
