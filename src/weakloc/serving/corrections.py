"""What people annotate in Label Studio -> a review on disk -> versions of the run that learned it.

An annotation is the whole truth of the classes that its labelling interface knows: boxes are
accepted, a class without one is absent, or misplaced where something else says that it is there.
"""

from __future__ import annotations

import logging
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock, Thread
from typing import Annotated, Any, TypeAlias

from msgspec import Meta, Struct

from weakloc.data.images import image_size
from weakloc.data.readers.review import Decision, Review, ReviewedImage, read_review, write_review
from weakloc.errors import DataError, FailureError, SettingError
from weakloc.files import digest_of_file, fit_json
from weakloc.geometry import BoxLTRB, Size
from weakloc.predictor.predictor import Predictor
from weakloc.serving.allowed_images import AllowedImages
from weakloc.serving.labelling_interface import LabellingInterface, read_interface
from weakloc.serving.waiting_room import Current
from weakloc.training.run_folder import CELLS_NAME, DETECTOR_NAME, MODEL_NAME, OWN_FILES

LOG = logging.getLogger(__name__)
Percent: TypeAlias = Annotated[float, Meta(ge=-1000.0, le=1000.0)]
UNFINISHED = "unfinished"  # of the learner's folder: what learning left that ended early
FEWEST_BOXES = 6  # that taught a detector anything: docs/distilling.md
# A command that ends with the process that waits for it, killed or not, when its input does.
COMMAND = """import os; from weakloc.cli import main; from weakloc.work import end_after
end_after(lambda: os.read(0, 1)); main()"""


class Statement(Struct, frozen=True):
    """What one control of the interface says, of a region or of the whole image."""

    type: str
    from_name: str = ""
    image_rotation: float = 0.0
    value: dict[str, Any] = {}

    def names(self, label: str) -> bool:
        labels = self.value.get(self.type)
        return isinstance(labels, list) and label in labels


class Rectangle(Struct, frozen=True):
    """In percent of the image, turned clockwise about its upper left corner, in degrees."""

    x: Percent
    y: Percent
    width: Percent
    height: Percent
    rotation: float = 0.0

    def box_in_image(self, size: Size) -> BoxLTRB:
        """The box around it."""
        (across, along), turn = size, math.radians(self.rotation)
        reach = [(x * across, y * along) for x in (0, self.width) for y in (0, self.height)]
        xs = [x * math.cos(turn) - y * math.sin(turn) + self.x * across for x, y in reach]
        ys = [x * math.sin(turn) + y * math.cos(turn) + self.y * along for x, y in reach]
        return min(xs) / 100, min(ys) / 100, max(xs) / 100, max(ys) / 100


class Annotation(Struct, frozen=True):
    id: int
    result: tuple[Statement, ...] = ()
    was_cancelled: bool = False  # the task was skipped


class AnnotatedTask(Struct, frozen=True):
    """A task; of one that is gone, or of an annotation that is, there is nothing but the number."""

    id: int
    data: dict[str, Any] = {}
    annotations: tuple[Annotation, ...] = ()


class Notice(Struct, frozen=True):
    """What Label Studio sends: an annotation with its task, or (to /train) all tasks that have."""

    action: str = ""
    annotation: tuple[Annotation, ...] = ()
    task: tuple[AnnotatedTask, ...] = ()
    annotations: tuple[AnnotatedTask, ...] = ()
    tasks: tuple[AnnotatedTask, ...] = ()


def corrected(review: Review, body: Mapping[str, Any], images: AllowedImages) -> Review:
    """The review with what a notice says; of an image the last annotation counts."""
    ones = {key: [body[key]] for key in ("annotation", "task") if isinstance(body.get(key), dict)}
    try:
        notice = fit_json({**body, **ones}, Notice)
    except ValueError as error:
        raise DataError(f"this is no notice of Label Studio: {error}") from error
    pairs = [*zip(notice.task, notice.annotation, strict=False)]
    pairs += [(task, annotation) for task in notice.annotations for annotation in task.annotations]
    gone, gone_tasks = {annotation.id for _, annotation in pairs}, set[int]()
    if notice.action == "ANNOTATIONS_DELETED":
        gone |= {annotation.id for annotation in notice.annotations}
    if notice.action == "TASKS_DELETED":
        gone_tasks = {task.id for task in notice.tasks}
    kept = {
        image.name: image
        for image in review.images
        if image.annotation not in gone and image.task not in gone_tasks
    }
    if pairs:
        project = body.get("project")
        config = (project if isinstance(project, dict) else body).get("label_config")
        interface = read_interface(config, review.class_names)
    for task, annotation in pairs:
        try:
            if not annotation.was_cancelled:
                image = _reviewed(task, annotation, interface, images)
                kept[image.name] = image
        except (DataError, ValueError) as error:
            LOG.warning("task=%d annotation=%d error=%r", task.id, annotation.id, str(error))
    return Review(review.class_names, tuple(kept.values()))


def _reviewed(
    task: AnnotatedTask,
    annotation: Annotation,
    interface: LabellingInterface,
    images: AllowedImages,
) -> ReviewedImage:
    """An image by its name below the folder above all roots; ValueError where a box is none."""
    source = images.find(interface.image_of({"id": task.id, "data": task.data}))
    files = (root / source.name for root in images.roots)
    file = next(filter(Path.is_file, files), None)
    if file is None or any(item.image_rotation for item in annotation.result):
        raise DataError("its image is not below a --root, or was turned", location=source.name)
    size, name = image_size(source.content), file.relative_to(images.common_root).as_posix()
    decisions = tuple(_decisions(annotation, interface, size))
    return ReviewedImage(name, *size, decisions, task=task.id, annotation=annotation.id)


def _decisions(
    annotation: Annotation, interface: LabellingInterface, size: Size
) -> Iterator[Decision]:
    """Of each class; none where only labels of several classes could say it."""
    for name in dict.fromkeys(name for control in interface.controls for name in control.labels):
        claims_absence, shown = False, list[Statement]()
        for control in interface.controls:
            label = control.labels.get(name, "")
            if list(control.labels.values()).count(label) == 1:
                claims_absence |= not (control.tag == "Choices" and control.takes_one)
                by_control = (i for i in annotation.result if i.from_name == control.name)
                shown += [item for item in by_control if item.names(label)]
        boxes = [fit_json(i.value, Rectangle) for i in shown if i.type == "rectanglelabels"]
        if boxes:
            yield Decision(name, "accepted", boxes=tuple(box.box_in_image(size) for box in boxes))
        elif shown or claims_absence:
            yield Decision(name, "misplaced" if shown else "absent")


@dataclass
class Learner:
    """The corrections of a run, and the versions of it that learned them, in a folder of their own.

    A version learns from the run that was given and from all corrections so far.
    """

    run: Path
    folder: Path
    images: AllowedImages
    load: Callable[[str], tuple[Predictor, str]]  # a run -> what answers, and its version
    review: Review = field(init=False)
    progress: str = ""
    thread: Thread = field(default_factory=Thread)
    lock: Lock = field(default_factory=Lock)

    @property
    def path(self) -> Path:
        return self.folder / "review.json"

    @property
    def num_boxes(self) -> int:
        return sum(len(image.boxes) for image in self.review.images)

    @property
    def health(self) -> dict[str, Any]:
        state = {"running": self.thread.is_alive(), "progress": self.progress}
        reviewed = {"images": len(self.review.images), "boxes": self.num_boxes}
        return {"learning": state, "reviewed": reviewed}

    def open(self) -> tuple[Predictor, str]:
        """What answers at first: the newest version of this run, or the run itself."""
        if not (self.run / MODEL_NAME).is_file() or not self.images.roots:
            remedy = "Give a run's folder, and that of the images with --root"
            raise SettingError("--learn cannot learn", location=str(self.run), remedy=remedy)
        weights = digest_of_file(self.run / MODEL_NAME)
        ours = [v for v in self._versions() if digest_of_file(v / MODEL_NAME) == weights]
        predictor, version = self.load(str([self.run, *ours][-1]))
        empty = Review(predictor.source.class_names, ())
        self.review = read_review(self.path) if self.path.is_file() else empty
        if self.review.class_names != empty.class_names:
            remedy = "Give each run a folder of its own with --learn"
            raise DataError("is of other classes", location=str(self.path), remedy=remedy)
        if (self.folder / UNFINISHED).exists():
            self.progress = "learning ended early: start it again"
        return predictor, version

    def _versions(self) -> list[Path]:
        return sorted(self.folder.glob("*-[0-9][0-9][0-9]"), key=lambda path: path.name[-3:])

    def take(self, body: Mapping[str, Any]) -> None:
        """Keeps what a notice says, on disk before it returns."""
        with self.lock:
            review = corrected(self.review, body, self.images)
            if review != self.review:
                write_review(self.path, review)
                self.review = review

    def start(self, current: Current) -> None:
        """Learns in the background, unless it does already, and lets what came of it answer."""
        with self.lock:
            if self.thread.is_alive():
                return
            if self.num_boxes < FEWEST_BOXES:
                reason = f"{self.num_boxes} boxes were drawn or accepted, of {FEWEST_BOXES} needed"
                raise DataError(reason, location=str(self.path))
            self.thread = Thread(target=self._learn, args=(current,), daemon=True)
            self.thread.start()

    def _learn(self, current: Current) -> None:
        try:
            current.model = self.load(str(self._next_version()))
            self.progress = f"learned {current.model[1]}"
        except Exception as error:  # whatever it is, predictions go on
            LOG.exception("learning failed")
            self.progress = f"failed: {error}"

    def _next_version(self) -> Path:
        """A detector where one can be learned and is no worse, thresholds otherwise."""
        out, last = self.folder / UNFINISHED, [0, *(int(v.name[-3:]) for v in self._versions())]
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        drawn = [str(self.images.common_root), "--labels", str(self.path)]
        drawn += ["--boxes", str(self.num_boxes)]
        if (self.run / CELLS_NAME).is_file():
            self._command("distil", str(self.run), *drawn, "--out", str(out))
        else:
            for file in filter(Path.is_file, (self.run / name for name in OWN_FILES)):
                shutil.copy(file, out)
        if not (out / DETECTOR_NAME).is_file():
            self._command("calibrate", str(out), *drawn)
        return out.rename(self.folder / f"{self.run.resolve().name}-{last[-1] + 1:03}")

    def _command(self, *arguments: str) -> None:
        """A command of weakloc in a process of its own, whose last line is the progress."""
        with subprocess.Popen(
            [sys.executable, "-c", COMMAND, *arguments],
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            for line in process.stdout or ():
                self.progress = line.strip()
                LOG.info("learning: %s", self.progress)
        if process.returncode != 0:
            raise FailureError(f"{arguments[0]} ended early: {self.progress}")
