"""What people and other tools want beside predictions.jsonl: pictures, heat maps, other formats."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from weakloc.api.prediction_files import export_predictions
from weakloc.config import ExportOptions
from weakloc.errors import SettingError
from weakloc.files import file_name_of, write_whole
from weakloc.localize.maps import minmax
from weakloc.output.drawing import draw_grid, draw_prediction
from weakloc.output.exporters import check_formats
from weakloc.output.exporters.heat_maps import write_heat_maps
from weakloc.output.exporters.jsonl import read_predictions
from weakloc.predictor.predictor import Located
from weakloc.structures import ScoreMaps

SHEET_COLUMNS = 4
SHEET_CELL = (320, 320)  # pixels


@dataclass(frozen=True)
class SideFiles:
    """Heat maps of the classes that have places, pictures of the first images, other formats."""

    heat_maps: bool = False
    num_drawn: int = 0
    formats: tuple[str, ...] = ()
    options: ExportOptions = ExportOptions()

    def __post_init__(self) -> None:
        if self.num_drawn < 0:
            raise SettingError(f"--draw is {self.num_drawn}", remedy="Give a number of images")
        check_formats(self.formats)

    def write(self, out: Path, number: int, located: Located) -> None:
        """The files of one image, which is the `number`-th of all."""
        prediction, heat = located.prediction, located.heat
        if self.heat_maps:
            names = [list(prediction.scores)[index] for index in located.classes]
            write_heat_maps([(prediction.image, heat)], out / "heat_maps", class_names=names)
        if number < self.num_drawn:
            stretched = ScoreMaps(minmax(heat.values), heat.transform, "cam")
            shown = stretched if located.classes else None
            picture = draw_prediction(located.seen.picture, prediction, score_map=shown)
            with write_whole(_picture_path(out, prediction.image)) as temporary:
                picture.save(temporary)

    def finish(self, out: Path, predictions: Path) -> dict[str, Path]:
        """What is made from all predictions together and the summary beside them, by name."""
        made: dict[str, Path] = {}
        if self.num_drawn:
            made["pictures"] = _write_sheet(out, predictions, self.num_drawn)
        if self.heat_maps:
            made["heat_maps"] = out / "heat_maps"
        return made | export_predictions(predictions, self.formats, out, self.options)


def _picture_path(out: Path, image: str) -> Path:
    *folders, name = map(file_name_of, image.split("/"))
    return out.joinpath("pictures", *folders, f"{name}.png")


def _write_sheet(out: Path, predictions: Path, num_drawn: int) -> Path:
    """The pictures side by side, in the order of the predictions."""
    pictures, captions = [], []
    for prediction in itertools.islice(read_predictions(predictions), num_drawn):
        path = _picture_path(out, prediction.image)
        if path.is_file():  # broken images count as images but have no picture
            with Image.open(path) as picture:
                pictures.append(picture.resize(_fitting(picture.size)))
            captions.append(prediction.image)
    sheet = draw_grid(pictures, num_columns=SHEET_COLUMNS, cell_size=SHEET_CELL, captions=captions)
    with write_whole(out / "pictures.png") as temporary:
        sheet.save(temporary)
    return out / "pictures.png"


def _fitting(size: tuple[int, int]) -> tuple[int, int]:
    factor = min(SHEET_CELL[0] / size[0], SHEET_CELL[1] / size[1])
    return max(round(size[0] * factor), 1), max(round(size[1] * factor), 1)
