"""The arithmetic of the benchmarks, which measure nothing here."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from benchmarks.all import BENCHES
from benchmarks.bench_growth import GROWTHS, Cost, fitted_exponent, row_of
from benchmarks.page import LINES, PAGE, cells_of, kept, page, reasons
from benchmarks.simulate_cluster import Cluster, Constants, bottleneck, simulate


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
def test_a_power_has_its_exponent_whatever_its_factor(exponent: float) -> None:
    amounts = [20, 200, 1000]
    costs = [3.7 * amount**exponent for amount in amounts]
    assert fitted_exponent(amounts, costs) == pytest.approx(exponent)


def test_what_grows_faster_than_images_is_a_finding_and_faster_than_boxes_is_none() -> None:
    by_images, by_boxes = "predict by images", "evaluate a file by boxes"
    assert GROWTHS[by_images].grows == "images" != GROWTHS[by_boxes].grows
    slow, fast = [Cost(1.0, 8.0), Cost(10.0, 8.0)], [Cost(1.0, 8.0), Cost(20.0, 17.0)]
    assert row_of(by_images, [100, 1000], slow)["finding"] is None
    row = row_of(by_images, [100, 1000], fast)
    assert (row["finding"], row["exponent, last two"]) == ("yes", 1.3)
    assert row["bytes more for each"] == 10486  # 9 MiB for 900
    assert row_of(by_boxes, [100, 1000], fast)["finding"] is None


CONSTANTS = Constants(
    list_image=0.001,
    give_part=0.1,
    write_part=0.2,
    join_image=0.0001,
    load_run=5.0,
    decode=0.0,
    network=0.0,
    places=0.0,
    image_bytes=0.0,
    line_bytes=0.0,
)


def test_one_worker_waits_for_the_command_between_its_parts() -> None:
    outcome = simulate(CONSTANTS, Cluster(1, image_seconds=0.01), 300)
    given = (0.256 + 0.1) + (0.044 + 0.1)  # listed and given out: 256 images, then 44
    worked = 5.0 + 2.56 + 0.44
    assert outcome.seconds == pytest.approx(given + worked + 2 * 0.2 + 300 * 0.0001)
    assert outcome.workers_busy == pytest.approx(3.0 / outcome.seconds)


def test_two_workers_take_turns_at_the_command() -> None:
    """The second is given its part 0.356 s after the first, whose answer it writes meanwhile."""
    outcome = simulate(replace(CONSTANTS, join_image=0.0), Cluster(2, image_seconds=0.01), 512)
    assert outcome.seconds == pytest.approx(2 * 0.356 + 5.0 + 2.56 + 0.2)


def test_beyond_some_workers_the_command_sets_the_pace() -> None:
    num_parts, constants = 1000, replace(CONSTANTS, load_run=0.0, join_image=0.0)
    outcome = simulate(constants, Cluster(500, image_seconds=0.001), num_parts * 256)
    assert outcome.seconds == pytest.approx(num_parts * constants.command_part(), rel=0.01)
    assert outcome.command_busy > 0.99
    assert bottleneck(outcome) == "the command"


def test_parts_of_the_dead_are_done_again_and_cost_what_a_poisson_process_says() -> None:
    """E[seconds of a part] = (restart + 1 / rate) (e^(rate work) - 1), loading being free."""
    constants = replace(CONSTANTS, list_image=0.0, give_part=0.0, write_part=0.0, load_run=0.0)
    constants = replace(constants, join_image=0.0)
    cluster = Cluster(1, image_seconds=1.0, hours_between_failures=1.0, restart_seconds=60.0)
    outcome = simulate(constants, cluster, 4000 * 256)
    expected = 4000 * (60.0 + 3600.0) * math.expm1(256 / 3600)
    assert outcome.seconds == pytest.approx(expected, rel=0.02)
    assert outcome.deaths == pytest.approx(4000 * math.expm1(256 / 3600), rel=0.1)


def test_a_part_over_which_six_workers_die_ends_the_command() -> None:
    cluster = Cluster(1, image_seconds=100.0, hours_between_failures=0.01)
    outcome = simulate(CONSTANTS, cluster, 256)
    assert (outcome.ended_early, outcome.deaths) == (True, 6)


def test_the_page_of_performance_says_what_the_results_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "python -m benchmarks.all --page"


def test_every_line_that_misses_its_goal_says_why() -> None:
    for lines in LINES.values():
        assert not [reason for reason in reasons(lines) if reason.endswith(": .")]


def test_lines_name_benchmarks_that_are_there_and_find_their_rows() -> None:
    """Of a result that is there, only what an older one lacked may be missing."""
    names = {bench.name for bench in BENCHES}
    for line in (line for lines in LINES.values() for line in lines):
        assert line.command.split()[0] in names
        record = kept(line.topic)
        row = (
            next((row for row in record["rows"] if line.ours.row.items() <= row.items()), None)
            if record
            else None
        )
        assert row is None or cells_of(line, record)[1] != "not measured yet", line.what
