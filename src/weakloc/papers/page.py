"""Results of a recipe as files: results.json, results.md for people, and a picture a curve."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from weakloc.api.evaluation import markdown_table
from weakloc.files import write_json, write_text
from weakloc.output.report import BASELINE_NAMES, Chart, chart_picture, line_chart, metric_label
from weakloc.papers.results import CellResult, Judgement, Results


def write_results(results: Results, folder: Path) -> None:
    """Of a recipe of which nothing was measured only the record is written."""
    write_json(folder / "results.json", results.to_json())
    if not results.rows:
        return
    charts = {
        re.sub(r"[\W_]+", "-", chart.title.lower()).strip("-"): chart for chart in curves(results)
    }
    for stem, chart in charts.items():
        write_text(folder / f"{stem}.svg", chart_picture(chart))
    write_text(folder / "results.md", "\n".join(_page(results, charts)) + "\n")


def spread(row: CellResult, metric: str) -> str:
    """Mean and standard deviation over the seeds, in percent."""
    mean, deviation = row.mean(metric), row.deviation(metric)
    if mean is None:
        return "-"
    return f"{100 * mean:.1f}" + ("" if deviation is None else f" ± {100 * deviation:.1f}")


def difference(judgement: Judgement) -> str:
    """In points, with those of the single seeds."""
    if judgement.mean is None:
        return judgement.reason
    of_seeds = ", ".join(f"{100 * value:+.1f}" for value in judgement.differences)
    return f"{100 * judgement.mean:+.1f} ({of_seeds})"


def table(results: Results) -> tuple[list[str], list[list[str]]]:
    """Header and rows: ours by metric, what papers printed, boxes used, seconds, the baselines.

    Where windows are searched for, also how many an image. It is made column by column.
    """
    rows = results.rows
    columns = [["cell", *(row.cell for row in rows), "best trivial answer"]]
    for metric in results.metrics:
        label = metric_label(metric) + (" (oracle)" if results.is_oracle(metric) else "")
        best = results.best_baseline(metric)
        name = "" if best is None else BASELINE_NAMES.get(best[0], best[0])
        trivial = "-" if best is None else f"{100 * best[1]:.1f} ({name})"
        columns.append([label, *(spread(row, metric) for row in rows), trivial])
        # Accuracies of papers stand beside our precision where we measured no accuracy.
        for paper in (paper for paper in results.recipe.published if paper.metric == metric):
            printed = (_shown(paper.values.get(row.cell), digits=1) for row in rows)
            columns.append([f"paper: {paper.data}", *printed, ""])
    columns.append(["boxes used", *(str(row.boxes_used) for row in rows), "0"])
    trained = [[record["seconds_to_train"] for record in row.records] for row in rows]
    columns.append(["s to train", *(f"{sum(s) / len(s):.0f}" for s in trained), ""])
    looked = [[r["seconds_to_measure"] / r["num_images"] for r in row.records] for row in rows]
    columns.append(["ms an image", *(f"{1000 * sum(s) / len(s):.0f}" for s in looked), ""])
    for name in results.searched:
        counts = (_shown(row.searched.get(name), digits=0) for row in rows)
        columns.append([name, *counts, ""])
    header, *cells = map(list, zip(*columns, strict=True))
    return header, cells


def _shown(value: float | None, *, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _page(results: Results, stems: Iterable[str]) -> Iterator[str]:
    recipe, record = results.recipe, results.rows[0].records[0]
    yield f"# {recipe.title}"
    yield f"\n{recipe.question} ({recipe.number}; {recipe.reference}; there: {recipe.papers_data})"
    yield f"\nIn percent, mean ± standard deviation over seeds {list(results.seeds)}.\n"
    yield from markdown_table(*table(results))
    yield "\n## Findings\n"
    rows = [
        [
            judgement.finding.claim,
            judgement.finding.said_by,
            f"{judgement.finding.better} - {judgement.finding.worse}",
            difference(judgement),
            f"**{judgement.verdict}**",
        ]
        for judgement in results.judgements
    ]
    header = ["claim", "said by", "compared", "points (each seed)", "verdict"]
    yield from markdown_table(header, rows)
    for stem in stems:
        yield f"\n![{stem}]({stem}.svg)"
    yield "\n## Circumstances\n"
    trained = record["training"]
    yield (
        f"- learned from split {trained['train_split']!r}, measured on split "
        f"{trained['val_split']!r} ({record['num_images']} images); backbone "
        f"{trained['backbone'] or 'of the method'}, {trained['epochs'] or 'its'} epochs, "
        f"{trained['image_size'] or 'its'} px, preset {trained['preset']}; training began with "
        f"weights from {record.get('weights_from', 'unknown')}"
    )
    yield from (f"- {note}" for note in [*recipe.notes, *record["notes"]])
    yield from _what_is_missing(results)


def _what_is_missing(results: Results) -> Iterator[str]:
    for metric, reason in results.unmeasured.items():
        yield f"- no {metric_label(metric)}: {reason}"
    for paper in results.recipe.published:
        if paper.metric not in results.metrics:
            numbers = ", ".join(f"{name} {value:.1f}" for name, value in paper.values.items())
            yield f"- {paper.source}, {metric_label(paper.metric)} on {paper.data}: {numbers}"
    for cell, reason in results.missing.items():
        yield f"- not tested: {cell} ({reason})"
    for cell, reason in results.failures.items():
        yield f"- failed: {cell} ({reason.splitlines()[-1]})"


def curves(results: Results) -> Iterator[Chart]:
    """Each metric over the recipe's axis, one chart a series."""
    recipe = results.recipe
    if recipe.axis is None:
        return
    series = dict.fromkeys(cell.series for cell in recipe.cells if cell.at is not None)
    by_name = {row.cell: row for row in results.rows}
    for metric in results.metrics:
        for name in series:
            means = {
                float(cell.at): by_name[cell.name].mean(metric)
                for cell in recipe.cells
                if cell.at is not None and cell.series == name and cell.name in by_name
            }
            points = {at: 100 * mean for at, mean in means.items() if mean is not None}
            if len(points) > 1:
                title = metric_label(metric) + (f", {name}" if name else "")
                yield line_chart(title, [*points], [*points.values()], x_label=recipe.axis)
