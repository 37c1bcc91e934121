"""`restora ls`: list what a study file can name."""

from pathlib import Path

from rich.text import Text

from pipeline.cli.app import app, carried_out, show
from pipeline.cli.options import Json


@app.command(epilog="Example: restora ls --json | jq '.compressions[].name'    Next: restora new NAME")
@carried_out
def ls(as_json: Json = False) -> None:
    """List all methods, models and data sets that a study file can name, and the studies in studies/."""
    show(listing(), listing_lines, as_json=as_json)


def listing() -> dict[str, list[dict[str, str]]]:
    """Names and summaries of the registered methods by kind, and of the study files in ``studies/``."""
    from pipeline.config.registry import REGISTRIES

    table = {
        kind: [{"name": method.name, "summary": method.summary()} for method in registry]
        for kind, registry in REGISTRIES.items()
    }
    table["studies"] = [_study(path) for path in sorted(Path("studies").glob("*.toml"))]
    return table


def _study(path: Path) -> dict[str, str]:
    """The name in a study file, and as summary its first line; of a file that cannot be read, what is wrong with it."""
    from pipeline.config.study_file import parse_toml, study_text
    from pipeline.errors import SpecError

    try:
        text = study_text(path)
        name = str(parse_toml(text, path).get("name", path.stem))
    except SpecError as error:
        return {"name": path.stem, "summary": str(error)}
    return {"name": name, "summary": text.partition("\n")[0].removeprefix("#").strip()}


def listing_lines(table: dict[str, list[dict[str, str]]]) -> list[Text]:
    """The listing as lines: a heading per kind, and a line per name."""
    lines = []
    for kind, entries in table.items():
        width = max(map(len, (entry["name"] for entry in entries)), default=0)
        lines.append(Text(kind, style="bold"))
        lines += [Text(f"  {entry['name']:<{width}}  {entry['summary'].replace('``', '')}") for entry in entries]
    return lines
