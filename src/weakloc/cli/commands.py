"""All commands by name, in the order in which a newcomer meets them."""

from __future__ import annotations

from weakloc.cli.calibrate_command import calibrate
from weakloc.cli.data_commands import data, scenes
from weakloc.cli.evaluate_command import evaluate
from weakloc.cli.export_command import export
from weakloc.cli.predict_command import predict
from weakloc.cli.refine_command import refine
from weakloc.cli.report_command import report
from weakloc.cli.reproduce_command import reproduce
from weakloc.cli.serve_command import serve
from weakloc.cli.tour_commands import demo
from weakloc.cli.train_command import train

COMMANDS = (
    *(demo, scenes, data, train, refine, calibrate, predict),
    *(evaluate, report, export, serve, reproduce),
)
