"""SIGKILL at random moments: the rerun goes on, and ends with the rows of a run that was never disturbed."""

import random
import sys

import pandas
import pytest

from support.killed import killed
from support.runs import left_behind, table

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked for in /proc")


def check(out, kills, workers):
    seed = random.SystemRandom().randrange(1 << 30)
    found = killed(out, kills, workers, seed)
    assert found["code"] == 0, (seed, found)
    assert all(k["gone"] for k in found["kills"]), (seed, found)
    rows = table(out / "rows")
    undisturbed = table(out.with_name(out.name + "-undisturbed") / "rows")
    assert len(undisturbed) > 100
    pandas.testing.assert_frame_equal(rows, undisturbed)
    assert not rows.duplicated(["title", "protocol", "example", "metric", "x"]).any()
    assert left_behind(out) == [], seed
    return found["kills"]


def test_killed_three_times(tmp_path):
    check(tmp_path / "run", 3, 1)


def test_killed_workers_die_with_it_and_their_rows_are_those_of_one_process(tmp_path):
    (kill,) = check(tmp_path / "run", 1, 2)
    assert kill["alive"] >= 3
    assert kill["shards"] >= 1


@pytest.mark.long
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_ten_times(tmp_path, workers):
    check(tmp_path / "run", 10, workers)
