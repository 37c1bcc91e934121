"""A plan as text for 80 columns."""

import textwrap
from typing import Any

from rich.text import Text

from pipeline.terminal.text import aligned
from pipeline.wording import as_written, cell_name, counted, duration, listed, rank_name, readable_bytes

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
    combinations = table["combinations"]
    cells = counted(sum(combination["cells"] for combination in combinations), "cell")
    baseline = "ready" if table["trained_baseline"] else "will be trained first, which the time leaves out"
    apart = ["gathering and decomposing statistics"] if table.get("statistics_bytes") else []
    if any(map(_waiting, combinations)):
        apart.append('scoring what is "auto"')
    time = f"about {duration(table['seconds'])}" + (f", without {listed(apart)}" if apart else "")
    if table["seeds"] > 1:
        seconds = sum(combination["seed_seconds"] for combination in combinations)
        time += f", {duration(seconds)} of it for the winners' {counted(table['seeds'] - 1, 'other seed')}"
    facts = {
        "trials": f"{table['trials']:,} in {cells} of {counted(len(combinations), 'combination')}",
        "images": ", ".join(f"{count:,} {part}" for part, count in table["parts"].items()),
        **({"data": "; ".join(table["data"])} if table["data"] else {}),
        **({"model": "; ".join(table["model"])} if table["model"] else {}),
        "baseline": f"{baseline}; {readable_bytes(table['dense_bytes'])}",
        "time": time,
        "memory": f"about {readable_bytes(table['memory_bytes'])}{_statistics_text(table)}",
        "disk": f"about {readable_bytes(table['disk_bytes'])}",
    }
    return [Text(f"study {table['study']}", style="bold"), *_facts(facts)]


def _combination(combination: dict[str, Any], table: dict[str, Any]) -> list[Text]:
    ready, lanes = table["trained_baseline"], combination["lanes"]
    epochs, most = combination["epochs"], counted(combination["most_epochs"], "epoch")
    epochs_left = most if epochs == combination["most_epochs"] else f"about {epochs:,} of {most} after pruning"
    facts = {
        "trials": f"{combination['trials']:,} in {counted(combination['cells'], 'cell')}, {epochs_left}",
        "layers": f"{len(combination['layers']):,}",
        "time": f"about {duration(combination['seconds'])}",
        "cache": combination["cache"]["said"] + _cache_text(combination["cache"]),
        "one pass": ", ".join(f"{counted(count, 'trial')} of batch {batch}" for batch, count in lanes.items()),
        "disk": f"about {readable_bytes(combination['disk_bytes'])}",
    }
    if sampled := combination.get("statistics", {}).get("sampled"):
        facts["sampled"] = "second moments of a sample of input vectors, as whole ones would take more than 1 GiB: " + (
            ", ".join(f"{layer} ({inputs:,} inputs)" for layer, inputs in sampled.items())
        )
    if prefix := combination.get("statistics", {}).get("prefix"):
        facts["prefix"] = (
            f"{counted(prefix['passes'], 'layer')} in turn, each on {counted(prefix['images'], 'image')} behind the "
            f"compressed layers before it: about {duration(prefix['seconds'])} of passes"
        )
    if dense := combination["ranks"][0]["dense"]:
        facts["dense"] = f"would not shrink, or are trained whole: {', '.join(dense)}"
    if combination["sized_by_values"] and not ready:
        facts["sizes"] = "follow from the weights' values: those of the trained baseline will be others"
    if combination["sized_by_values"] and (moved := combination["moved"]):
        facts["moved"] = f"cells of {listed(moved)} compress a base of their own, of other sizes; the run stores them"
    if waiting := _waiting(combination):
        facts["auto"] = waiting
    elif chosen := combination.get("chosen"):
        facts["auto"] = f"{as_written(chosen)}: chosen when the study began"
    if combination["allocation"]:
        facts["budgets"] = _allocation_text(combination, ready=ready)
    return [
        Text(combination["combination"], style="bold"),
        *_facts(facts),
        *_sizes(combination),
        *_notes(combination),
        *_tried(combination),
        *(_scores(combination["scores"], combination["allocation"]) if combination["scores"] else []),
    ]


def _facts(facts: dict[str, str]) -> list[Text]:
    """Names with their values, wrapped to the width."""
    wide = max(map(len, facts))
    lines: list[Text] = []
    for name, value in facts.items():
        first, *rest = textwrap.wrap(value, WIDTH - wide - 4, break_on_hyphens=False)
        lines.append(Text("  ").append(f"{name:<{wide}}", style="dim").append(f"  {first}"))
        lines += [Text(" " * (wide + 4) + line) for line in rest]
    return lines


def _sizes(combination: dict[str, Any]) -> list[Text]:
    """One row per rank or budget."""
    allocation = combination["allocation"]
    coded = any(plan.get("coded_bytes") is not None for plan in combination["ranks"])
    # After entropy coding, only the size of the whole file is known about, and so only its factor.
    sizes = ["at most", "about", "smaller"] if coded else ["bytes", "smaller", "layers"]
    names = ["budget" if allocation else "rank", "trained", *sizes, "MACs"]
    rows = []
    for plan in combination["ranks"]:
        rank = f"{plan['rank']:,}" if plan["rank"] else "-"
        if coded:
            about = plan["coded_bytes"]
            size = [f"{about:,}", f"{plan['ratio'] * plan['bytes'] / about:.2f}x"]
        else:
            size = [f"{plan['ratio']:.2f}x", f"{plan['layer_ratio']:.2f}x"]
        rows.append([rank, f"{plan['trainable']:,}", f"{plan['bytes']:,}", *size, f"{plan['macs_ratio']:.2f}x"])
    return [Text("  ").append(line) for line in aligned(names, rows)]


def _notes(combination: dict[str, Any]) -> list[Text]:
    """What the search or the compression cannot do, then per rank the clipped and oversized layers and the spread."""
    unit, notes = (combination["allocation"] or {}).get("unit"), list[str](combination["notes"])
    for plan in combination["ranks"]:
        rank, spread = rank_name(plan["rank"], unit), plan["spread"]
        if plan["clipped"]:
            clipped = ", ".join(f"{layer} takes {most}" for layer, most in plan["clipped"].items())
            notes.append(f"{rank}: {clipped}")
        if plan["larger"]:
            notes.append(f"{rank}: adapters larger than the dense weight: {', '.join(plan['larger'])}")
        if spread:
            taken = ", ".join(f"{layer} {most}" for layer, most in spread.items() if most)
            without = ", ".join(layer for layer, most in spread.items() if not most)
            notes.append(f"{rank}: ranks {taken or 'none'}" + (f"; no adapter: {without}" if without else ""))
    return [Text(line) for note in notes for line in _wrapped(note)]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)


def _statistics_text(table: dict[str, Any]) -> str:
    size = table.get("statistics_bytes", 0)
    if not size:
        return ""
    if table["device"] == "cpu":
        return f", of which statistics of the layers {readable_bytes(size)}"
    return f" of {table['device']}, and statistics of the layers {readable_bytes(size)} of this machine"


def _allocation_text(combination: dict[str, Any], *, ready: bool) -> str:
    allocation = combination["allocation"]
    weights = "; compression loses nothing, so by the weights' own spectra" if allocation["spectra"] == "weight" else ""
    if combination["scores"] is not None:
        evenly = ""
    elif ready:
        evenly = "; shown spread evenly, since only --score computes spectra"
    else:
        evenly = "; shown spread evenly, since the untrained model has no such spectra yet"
    by = allocation["by"].replace("_", " ")
    return f"{allocation['unit']} of the whole adapter, spread over layers by {by}{weights}{evenly}"


def _waiting(combination: dict[str, Any]) -> str:
    """What will be scored for options and an init that are "auto"; empty if nothing will."""
    auto, inits = ({**(combination.get(key) or {"scores": True})} for key in ("auto", "auto_inits"))
    said = []
    if auto["scores"] is None:
        said.append(f"{counted(auto['candidates'], 'candidate')} for {listed(auto['options'])}")
    if inits["scores"] is None:
        said.append(f"{counted(inits['candidates'], 'init')} at each rank")
    if not said:
        return ""
    images = counted({**inits, **auto}["images"], "training image")
    return f"{listed(said)} will be scored on {images} before the first trial; the sizes are those of each"


def _tried(combination: dict[str, Any]) -> list[Text]:
    """The scores of candidates for options and an init that are "auto", the best first: that one is taken."""
    lines: list[Text] = []
    for key, what in (("auto", "before any adapter"), ("auto_inits", "with the adapter's start, the mean over ranks")):
        auto = combination.get(key)
        if not auto or not auto["scores"]:
            continue
        said = (
            f"auto takes the first: mean KL divergence of the compressed model's outputs to the uncompressed model's "
            f"on {counted(auto['images'], 'training image')}, {what}"
        )
        rows = [[f"{one['divergence']:.4g}", as_written(one["options"])] for one in auto["scores"]]
        table = aligned(["divergence", "options"], rows, left=[1])
        lines += [*map(Text, _wrapped(said)), *(Text("  ").append(line) for line in table)]
    return lines


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
    rows = [
        [cell_name(cell["rank"], cell["init"], unit), f"{cell['accuracy']:.4f}", f"{cell['output_error']:.4f}"]
        for cell in scores["cells"]
    ]
    lines = aligned(["cell", "accuracy", "output error"], rows, left=[0])
    return [*map(Text, _wrapped(said)), *(Text("  ").append(line) for line in lines)]


def _cache_text(cache: dict[str, Any]) -> str:
    if not cache["bytes"]:
        return ""
    if not cache["missing_bytes"]:
        return f"; {readable_bytes(cache['bytes'])}, there already"
    missing = f"{readable_bytes(cache['missing_bytes'])} to build in {duration(cache['seconds'])}"
    return f"; {readable_bytes(cache['bytes'])}, {missing}"
