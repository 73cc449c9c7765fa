"""Heads against plain matrix products."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate

from weakloc.model.network import GridHead, TransferHead


def make_grid_head(*, reduced_channels: int | None = None) -> GridHead:
    torch.manual_seed(0)
    head = GridHead(
        6, 4, grid_side=3, reduced_channels=reduced_channels, hidden=(10, 8), dropout=0.5
    )
    return head.double().eval()


def features(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def test_transfer_starts_from_small_gaussian_weights_and_no_bias() -> None:
    torch.manual_seed(0)
    head = TransferHead(500, 20, maps_per_class=4)
    assert head.transfer.weight.shape == (80, 500, 1, 1)
    assert head.transfer.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert (head.transfer.bias == 0).all()


def test_a_grid_is_scored_by_plain_fully_connected_layers() -> None:
    head, grid = make_grid_head(), features(2, 6, 3, 3)
    hidden = grid.reshape(2, 54)
    first, second, last = head.linear_layers()
    hidden = (hidden @ first.weight.T + first.bias).clamp(min=0)
    hidden = (hidden @ second.weight.T + second.bias).clamp(min=0)
    torch.testing.assert_close(head.score_grid(grid), hidden @ last.weight.T + last.bias)


def test_a_smaller_grid_is_stretched_with_half_pixel_centres() -> None:
    head, grid = make_grid_head(), features(2, 6, 2, 3)
    stretched = interpolate(grid, (3, 3), mode="bilinear", align_corners=False)
    torch.testing.assert_close(head.score_grid(grid), head.score_grid(stretched))


@pytest.mark.parametrize("reduced_channels", [None, 5])
def test_the_map_of_a_grid_head_holds_the_scores_of_single_cells(reduced_channels) -> None:
    head, grid = make_grid_head(reduced_channels=reduced_channels), features(2, 6, 3, 4)
    maps = head(grid)
    assert maps.shape == (2, 4, 3, 4)
    for row in range(3):
        for column in range(4):
            cell = grid[:, :, row : row + 1, column : column + 1]
            torch.testing.assert_close(maps[:, :, row, column], head.score_grid(cell))


def test_pretrained_layers_are_adopted_and_misfits_refused() -> None:
    head = make_grid_head()
    given = [nn.Linear(54, 10).double(), nn.Linear(10, 8).double()]
    head.adopt(given)
    assert torch.equal(head.linear_layers()[1].weight, given[1].weight)
    assert len(list(head.adopted_parameters())) == 4
    with pytest.raises(ValueError, match="does not fit"):
        head.adopt([nn.Linear(54, 11)])


def test_all_windows_at_once_are_scored_as_each_window_alone() -> None:
    """Against PyTorch's own resizing of every window, which never sees a matrix of ours."""
    head = make_grid_head(reduced_channels=5)
    narrowed = head.reduce(features(1, 6, 3, 3))
    spans = [(0, 1), (1, 1), (2, 1), (0, 2), (1, 2), (0, 3)]
    stretch = torch.zeros(len(spans), 3, 3, dtype=torch.float64)
    for index, (start, length) in enumerate(spans):
        identity = torch.eye(3, dtype=torch.float64)[start : start + length]  # (length, 3)
        stretch[index] = interpolate(identity[None, None], (3, 3), mode="bilinear")[0, 0]
    scores = head.score_spans(narrowed[0], stretch, stretch)
    assert scores.shape == (6, 6, 4)
    for i, (top, height) in enumerate(spans):
        for j, (left, width) in enumerate(spans):
            window = narrowed[:, :, top : top + height, left : left + width]
            assert scores[i, j].tolist() == pytest.approx(head.score_narrow(window)[0].tolist())
