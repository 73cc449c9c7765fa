"""`weakloc export`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from weakloc.cli.terminal import Terminal


def export(run: str, /, *, out: Path, terminal: Terminal = Terminal()) -> None:
    """Write the network of a run as one ONNX file, and check that it answers as the run does.

    Parameters
    ----------
    run
        Folder of a run.
    out
        File to write, such as model.onnx.
    """
    from weakloc.api import exporting, runs

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
