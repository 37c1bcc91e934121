"""A plan as text for 80 columns."""

import textwrap
from typing import Any

from rich.text import Text

from pipeline.terminal.text import aligned
from pipeline.wording import cell_name, counted, duration, rank_name, readable_bytes

WIDTH = 80
"""Characters of a line."""


def plan_lines(table: dict[str, Any]) -> list[Text]:
    """What a run would do and need: first the study, then each combination."""
    lines = [*_whole(table), Text()]
    for combination in table["combinations"]:
        lines += [*_combination(combination, table), Text()]
    return lines[:-1]


def _whole(table: dict[str, Any]) -> list[Text]:
    """The study: its name, and the totals of all combinations."""
    parts = ", ".join(f"{count:,} {part}" for part, count in table["parts"].items())
    cells = sum(combination["cells"] for combination in table["combinations"])
    baseline = "ready" if table["trained_baseline"] else "will be trained first, which the time leaves out"
    facts = {
        "trials": f"{table['trials']:,} in {counted(cells, 'cell')} of "
        f"{counted(len(table['combinations']), 'combination')}",
        "images": parts,
        "baseline": f"{baseline}; {readable_bytes(table['dense_bytes'])}",
        "time": f"about {duration(table['seconds'])}{_again_text(table)}",
        "memory": f"about {readable_bytes(table['memory_bytes'])}",
        "disk": f"about {readable_bytes(table['disk_bytes'])}",
    }
    return [Text(f"study {table['study']}", style="bold"), *_facts(facts)]


def _again_text(table: dict[str, Any]) -> str:
    """The part of the time for training the winners under other seeds."""
    seconds = sum(combination["seed_seconds"] for combination in table["combinations"])
    if table["seeds"] == 1:
        return ""
    return f", {duration(seconds)} of it for the winners' {counted(table['seeds'] - 1, 'other seed')}"


def _combination(combination: dict[str, Any], table: dict[str, Any]) -> list[Text]:
    ready, lanes = table["trained_baseline"], combination["lanes"]
    facts = {
        "trials": f"{combination['trials']:,} in {counted(combination['cells'], 'cell')}, about "
        f"{counted(combination['epochs'], 'epoch')} in all",
        "layers": f"{len(combination['layers']):,}",
        "time": f"about {duration(combination['seconds'])}",
        "cache": combination["cache"]["said"] + _cache_text(combination["cache"]),
        "one pass": ", ".join(f"{counted(own, 'trial')} of batch {batch}" for batch, own in lanes.items()),
        "disk": f"about {readable_bytes(combination['disk_bytes'])}",
    }
    dense = combination["ranks"][0]["dense"]
    if dense:
        facts["dense"] = f"would not shrink, or are trained whole: {', '.join(dense)}"
    if combination["sized_by_values"] and not ready:
        facts["sizes"] = "follow from the weights' values: those of the trained baseline will be others"
    if combination["allocation"]:
        facts["budgets"] = _allocation_text(combination["allocation"], ready=ready)
    return [
        Text(combination["combination"], style="bold"),
        *_facts(facts),
        *_sizes(combination),
        *_notes(combination),
        *(_scores(combination["scores"], combination["allocation"]) if combination["scores"] else []),
    ]


def _facts(facts: dict[str, str]) -> list[Text]:
    """Names with their values, wrapped to the width."""
    wide = max(map(len, facts))
    lines: list[Text] = []
    for name, value in facts.items():
        first, *rest = textwrap.wrap(value, WIDTH - wide - 4, break_on_hyphens=False)
        lines.append(Text("  ").append(f"{name:<{wide}}", style="dim").append(f"  {first}"))
        lines += [Text(" " * (wide + 4) + each) for each in rest]
    return lines


def _sizes(combination: dict[str, Any]) -> list[Text]:
    """One row per rank or budget."""
    allocation = combination["allocation"]
    names = [allocation["unit"] if allocation else "rank", "trained", "bytes", "smaller", "layers", "MACs"]
    rows = [[Text(name, style="dim") for name in names]]
    for plan in combination["ranks"]:
        ratios = [f"{plan[key]:.2f}x" for key in ("ratio", "layer_ratio", "macs_ratio")]
        rank = f"{plan['rank']:,}" if plan["rank"] else "-"
        rows.append([Text(each) for each in (rank, f"{plan['trainable']:,}", f"{plan['bytes']:,}", *ratios)])
    return [Text("  ").append(line) for line in aligned(rows)]


def _notes(combination: dict[str, Any]) -> list[Text]:
    """Layers whose rank is clipped or whose adapter is larger than the weight, per rank."""
    unit, notes = (combination["allocation"] or {}).get("unit"), list[str]()
    for plan in combination["ranks"]:
        rank = rank_name(plan["rank"], unit)
        clipped = ", ".join(f"{layer} takes {own}" for layer, own in plan["clipped"].items())
        larger = ", ".join(plan["larger"])
        notes += [f"{rank}: {clipped}"] if clipped else []
        notes += [f"{rank}: adapters larger than the dense weight: {larger}"] if larger else []
        notes += [f"{rank}: {_spread_text(plan['spread'])}"] if plan["spread"] else []
    return [Text(line) for note in notes for line in _wrapped(note)]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)


def _spread_text(ranks: dict[str, int]) -> str:
    """The rank of each layer, and the layers without an adapter."""
    taken = ", ".join(f"{name} {rank}" for name, rank in ranks.items() if rank)
    none = ", ".join(name for name, rank in ranks.items() if not rank)
    return f"ranks {taken or 'none'}" + (f"; no adapter: {none}" if none else "")


def _allocation_text(allocation: dict[str, Any], *, ready: bool) -> str:
    weights = "; compression loses nothing, so by the weights' own spectra" if allocation["spectra"] == "weight" else ""
    untrained = "" if ready else "; of the untrained model: ranks will differ once the baseline is trained"
    by = allocation["by"].replace("_", " ")
    return f"{allocation['unit']} of the whole adapter, spread over layers by {by}{weights}{untrained}"


def _scores(scores: dict[str, Any], allocation: dict[str, Any] | None) -> list[Text]:
    """The scores of the untrained cells, the best first."""
    if not scores["cells"]:
        return [Text("  no cells to score: the adapter has neither rank nor init")]
    unit = allocation["unit"] if allocation else None
    said = (
        f"before any training, every range at its middle ({scores['seconds']:.1f} s): accuracy on "
        f"{scores['images']:,} validation images, relative error of the layers' outputs on "
        f"{scores['error_images']:,} training images"
    )
    rows = [[Text(name, style="dim") for name in ("cell", "accuracy", "output error")]]
    for cell in scores["cells"]:
        numbers = (f"{cell['accuracy']:.4f}", f"{cell['output_error']:.4f}")
        rows.append([Text(each) for each in (cell_name(cell["rank"], cell["init"], unit), *numbers)])
    return [*map(Text, _wrapped(said)), *(Text("  ").append(line) for line in aligned(rows, left=[0]))]


def _cache_text(cache: dict[str, Any]) -> str:
    if not cache["bytes"]:
        return ""
    if not cache["missing_bytes"]:
        return f"; {readable_bytes(cache['bytes'])}, there already"
    missing = f"{readable_bytes(cache['missing_bytes'])} to build in {duration(cache['seconds'])}"
    return f"; {readable_bytes(cache['bytes'])}, {missing}"
