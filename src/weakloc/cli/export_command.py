"""`weakloc export`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from weakloc.cli.formats import Filters, Formats
from weakloc.cli.terminal import Terminal
from weakloc.config import ExportOptions
from weakloc.errors import SettingError


def export(
    source: str,
    /,
    *,
    out: Path,
    formats: Annotated[Formats, Parameter(name="*")] = Formats(),
    filters: Filters = ExportOptions(),
    terminal: Terminal = Terminal(),
) -> None:
    """Write a run as one ONNX file that was checked against it, or predictions in other formats.

    Parameters
    ----------
    source
        Folder of a run; with --format, predictions (their folder or predictions.jsonl).
    out
        File for the network, such as model.onnx; with --format, folder for all formats.
    """
    formats.refuse_idle(filters)
    if formats.formats:
        _export_predictions(source, out, formats.formats, filters, terminal)
    else:
        _export_network(source, out, terminal)


def _export_predictions(
    source: str, out: Path, names: tuple[str, ...], filters: ExportOptions, terminal: Terminal
) -> None:
    from weakloc.api.prediction_files import export_predictions

    written = export_predictions(source, names, out, filters)
    for name, path in written.items():
        terminal.say(f"{name}: {path}")
    terminal.give({name: str(path) for name, path in written.items()})


def _export_network(run: str, out: Path, terminal: Terminal) -> None:
    from weakloc.api import exporting, runs
    from weakloc.api.prediction_files import predictions_file

    if predictions_file(run).is_file() and not Path(run, "run.json").is_file():
        raise SettingError(
            "these are predictions, and no --format is given",
            where=run,
            remedy="Say which, such as --format coco",
        )
    written = exporting.export(runs.load(run), out)
    record = written.record
    terminal.say(f"{out}: opset {record.opset}, {len(record.class_names)} classes")
    if record.fixed_size is None:
        terminal.say(f"  any batch, any size from {record.smallest_side} pixels a side")
    else:
        width, height = record.fixed_size
        terminal.say(f"  any batch of {width} x {height} pixels only: {record.fixed_because}")
    for each in written.parity:
        size = f"{each.batch} images of {each.width} x {each.height}"
        terminal.say(f"  differs from the run by {each.difference:.1e} on {size}")
    terminal.say(f'Next: weakloc predict "{out}" IMAGES --out predictions')
    terminal.give(
        {
            "onnx": str(out),
            "opset": record.opset,
            "fixed_size": record.fixed_size,
            "fixed_because": record.fixed_because or None,
            "parity": [asdict(each) for each in written.parity],
        }
    )
