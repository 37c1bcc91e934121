"""What ``ls`` lists."""

import tomllib
from pathlib import Path

from rich.text import Text

from pipeline.config.registry import REGISTRIES


def listing() -> dict[str, list[dict[str, str]]]:
    """Everything that a study file can name, and the study files in ``studies/``."""
    table = {
        noun: [{"name": method.name, "summary": method.summary()} for method in registry]
        for noun, registry in REGISTRIES.items()
    }
    table["studies"] = []
    for path in sorted(Path("studies").glob("*.toml")):
        first = path.read_text().partition("\n")[0].removeprefix("#").strip()
        try:
            name = str(tomllib.loads(path.read_text()).get("name", path.stem))
        except tomllib.TOMLDecodeError as error:
            name, first = path.stem, f"not valid TOML: {error}"
        table["studies"].append({"name": name, "summary": first})
    return table


def listing_lines(table: dict[str, list[dict[str, str]]]) -> list[Text]:
    """The listing in words: a name and what it is, a line each."""
    lines = []
    for noun, entries in table.items():
        wide = max(map(len, (entry["name"] for entry in entries)), default=0)
        lines.append(Text(noun, style="bold"))
        lines += [Text(f"  {entry['name']:<{wide}}  {entry['summary']}") for entry in entries]
    return lines
