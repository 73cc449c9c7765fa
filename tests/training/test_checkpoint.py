"""What a run folder holds, and what is said of one that is damaged, foreign or newer."""

from __future__ import annotations

import csv
import json
import math
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.training.small_data import CLASSES, SIDE, method, settings
from weakloc.data.images import open_image
from weakloc.errors import RunError
from weakloc.structures import PRESENT, DataSet
from weakloc.training.fit import fit
from weakloc.training.run_folder import Run, _write_tensors, load_run, save_thresholds

Edit = Callable[[dict[str, Any]], None]


@pytest.fixture
def copy(run: Run, tmp_path: Path) -> Path:
    """A run folder that may be damaged."""
    for name in ("run.json", "model.safetensors", "last.ckpt"):
        shutil.copy(run.path / name, tmp_path / name)
    return tmp_path


def edit(folder: Path, change: Edit) -> None:
    record = json.loads((folder / "run.json").read_text())
    change(record)
    (folder / "run.json").write_text(json.dumps(record))


def test_a_loaded_run_scores_images_like_the_trained_network(
    data_set: DataSet, tmp_path: Path
) -> None:
    seen: list[torch.Tensor] = []
    trained = fit(data_set, method(), settings(epochs=1), tmp_path)
    sample = data_set.splits["val"][0]
    pixels, _ = trained.preprocessing.apply(open_image(sample.path))
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    prefix = "network."
    trained.network.load_state_dict({k.removeprefix(prefix): v for k, v in content.items()})
    for network in (trained.network, load_run(tmp_path).network):
        assert not network.training
        with torch.inference_mode():
            seen.append(network(pixels[None]).maps)
    assert torch.equal(seen[0], seen[1])


def test_the_record_says_all_that_made_the_run(run: Run, data_set: DataSet) -> None:
    record = json.loads((run.path / "run.json").read_text())
    labels = np.array([sample.labels for sample in data_set.splits["train"]]) == PRESENT
    assert record["labels"]["present"] == labels.sum(axis=0).tolist()
    both = int((labels[:, 0] & labels[:, 1]).sum())
    assert record["labels"]["co_occurrence"][0][1] == both
    assert record["class_names"] == list(CLASSES)
    assert record["method"]["name"] == "wildcat"
    assert record["method"]["settings"]["maps_per_class"] == 2
    assert record["method"]["settings"]["side"] == SIDE
    assert record["settings"]["seed"] == record["seed"] == 0
    assert record["hidden_supervision"] == 0
    assert record["thresholds"] is None
    assert record["selection"] == {"epoch": 3, "by": "last epoch", "watched": "split 'val'"}
    assert {"weakloc", "torch", "lightning", "timm", "python"} <= set(record["versions"])
    assert [each["epoch"] for each in record["history"]] == [1, 2, 3]
    assert all(0 <= each["classification_map"] <= 1 for each in record["history"])


def test_the_history_is_also_a_table(run: Run) -> None:
    with (run.path / "epochs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == [each.loss for each in run.history]


def test_weights_are_the_same_bytes_whichever_process_writes_them(tmp_path: Path) -> None:
    names = [f"ü{index}" for index in range(9)]
    tensors = {name: torch.arange(7.0) for name in names}
    for turn in (names, names[::-1]):
        _write_tensors(tmp_path / turn[0], tensors, dict.fromkeys(turn, "fact"))
    assert (tmp_path / names[0]).read_bytes() == (tmp_path / names[-1]).read_bytes()
    loaded = load_file(tmp_path / names[0])
    assert sorted(loaded) == names
    assert all(torch.equal(value, torch.arange(7.0)) for value in loaded.values())


def test_loading_gives_back_what_training_used(run: Run) -> None:
    loaded = load_run(run.path)
    assert (loaded.method, loaded.settings) == (run.method, run.settings)
    assert loaded.method.optimisation.epochs == 3
    assert loaded.preprocessing.fixed_size == (SIDE, SIDE)
    assert loaded.class_names == CLASSES
    assert loaded.is_finished
    assert loaded.labels == run.labels


def test_thresholds_travel_with_the_run(copy: Path) -> None:
    thresholds = {"boxes": {"red": 0.3}, "tuned_on": "nothing drawn", "hidden_supervision": 0}
    changed = save_thresholds(load_run(copy), thresholds)
    assert changed.thresholds == load_run(copy).thresholds == thresholds
    assert load_run(copy).history == changed.history


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(format="someone.else"), "not the record of a weakloc run"),
        (lambda r: r.update(format_version=2), r"version 2, .*up to 1\. Update weakloc"),
        (lambda r: r.pop("class_names"), "missing required field 'class_names'"),
        (lambda r: r.update(class_names="red"), 'class_names is "red": expected a list'),
        (lambda r: r["history"][0].update(loss="low"), r"history\[0\].loss is \"low\": expected"),
        (lambda r: r["selection"].pop("by"), "selection is .*missing required field 'by'"),
        (lambda r: r["labels"].update(present=[1.5]), r"labels.present\[0\] is 1.5: expected"),
        (lambda r: r.update(finished="yes"), "finished is .*expected true or false"),
        (lambda r: r.update(thresholds={"red": math.nan}), "damaged"),
        (lambda r: r.update(rescoring={"alpha": [1]}), "rescoring.alpha"),
        (lambda r: r["method"]["settings"].update(alpha=math.inf), "damaged"),
        (lambda r: r.update(thresholds=3), "thresholds is 3: expected an object or nothing"),
        (lambda r: r["method"].update(name="later"), "method 'later' is not known"),
        (lambda r: r["method"]["settings"].update(shiny=1), "no setting 'wildcat.shiny'"),
        (lambda r: r["method"]["settings"].update(alpha="much"), "wildcat.alpha: 'much' will not"),
        (lambda r: r["settings"].update(epochs=-1), "--epochs is -1"),
        (lambda r: r["preprocessing"].update(size=[32]), "preprocessing.size"),
        (lambda r: r["labels"].update(co_occurrence=[[1]]), "co_occurrence does not fit 2"),
        (lambda r: r["labels"].update(present=[1, 2, 3]), "labels.present does not fit 2"),
        (lambda r: r["labels"].update(unknown=[10**18] * 3), "labels.unknown does not fit 2"),
        (lambda r: r["preprocessing"].update(size=[10**9, 10**9]), r"size is \(1000000000, "),
        (lambda r: r["preprocessing"].update(size=[32, 2]), r"\(32, 2\), below the \d+ pixels"),
        (lambda r: r["backbone"].update(name="hf-hub:me/mine"), "'hf-hub:me/mine' is a place"),
        (lambda r: r["backbone"].update(name="local-dir:/etc"), "'local-dir:/etc' is a place"),
        *(
            (
                lambda r, inner=inner: r["backbone"].update(name=f"resnet18[{inner}]"),
                "is neither a word nor a number",
            )
            for inner in (
                "checkpoint_path='/etc/passwd'",
                "pretrained_cfg='x'",
                "pretrained_cfg_overlay={'url': 'http://h/'}",
                "cache_dir='/tmp'",
                "act_layer='../x'",
                "block_args={}",
                "layers=(3,4,'x')",
                "stem_width=1000000000",
            )
        ),
        (lambda r: r["backbone"].update(name="resnet18[features_only=True]"), "damaged"),
        (lambda r: r["backbone"].update(name="resnet18[layers=(0,)]"), "damaged"),
        (lambda r: r["backbone"].update(name="tinny"), "backbone 'tinny' is not known"),
        (lambda r: r["method"]["settings"].update(maps_per_class=3), "is 6x16x1x1|6 instead of|4"),
    ],
)
def test_a_record_that_does_not_fit_is_refused(copy: Path, change: Edit, message: str) -> None:
    edit(copy, change)
    with pytest.raises(RunError, match=message):
        load_run(copy)


def test_a_half_deleted_run_says_what_is_missing_and_what_brings_it_back(
    copy: Path, data_set: DataSet
) -> None:
    with pytest.raises(RunError, match="no such run folder"):
        load_run(copy / "nowhere")
    (copy / "model.safetensors").unlink()
    with pytest.raises(RunError, match=r"model.safetensors is missing. Continue .*--resume"):
        load_run(copy)
    fit(data_set, method(), settings(), copy, resume=True)
    assert load_run(copy).selection.epoch == 3
    (copy / "run.json").unlink()
    with pytest.raises(RunError, match=r"run.json is missing. Continue .*--resume"):
        load_run(copy)
    (copy / "last.ckpt").unlink()
    with pytest.raises(RunError, match=r"run.json is missing\. Give the folder"):
        load_run(copy)


def test_damaged_files_are_named(copy: Path) -> None:
    content = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(RunError, match=r"model.safetensors: the weights cannot be read"):
        load_run(copy)
    (copy / "run.json").write_text('{"format": "weakloc.run",')
    with pytest.raises(RunError, match=r"run.json: this record is damaged"):
        load_run(copy)


def test_weights_of_another_network_are_refused(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    name = "head.transfer.bias"
    save_file({**tensors, name: tensors[name][:-1].clone()}, copy / "model.safetensors")
    with pytest.raises(RunError, match=r"head.transfer.bias is 3 in the file and 4 in the network"):
        load_run(copy)
    save_file({k: v for k, v in tensors.items() if k != name}, copy / "model.safetensors")
    with pytest.raises(RunError, match=r"1 missing .head.transfer.bias."):
        load_run(copy)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_named(copy: Path, value: float) -> None:
    tensors = load_file(copy / "model.safetensors")
    name = "head.transfer.bias"
    tensors[name][1] = value
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(RunError, match=r"weights 'head.transfer.bias' hold NaN or infinity"):
        load_run(copy)


class Trap:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("sprung"),))


def test_nothing_in_a_run_folder_is_executed(
    copy: Path, data_set: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copy)
    for name in ("model.safetensors", "last.ckpt"):
        (copy / name).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(RunError):
        load_run(copy)
    torch.save({"weakloc": Trap()}, copy / "last.ckpt")
    with pytest.raises(RunError):
        fit(data_set, method(), settings(), copy, resume=True)
    assert not (copy / "sprung").exists()
