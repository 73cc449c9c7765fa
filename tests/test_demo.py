"""The walking skeleton."""

from __future__ import annotations

from pathlib import Path

import weakloc


def test_demo_learns_to_point_at_shapes_it_was_only_told_about(tmp_path: Path) -> None:
    metrics = weakloc.demo(tmp_path / "de mo", num_train=64, num_val=16, epochs=2)
    assert 0 <= metrics["pointing_accuracy"] <= 1
    assert (tmp_path / "de mo" / "report.html").read_text().count("<svg") == 16
