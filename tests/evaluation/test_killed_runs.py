"""SIGKILL at random moments: the rerun goes on, and ends with the rows of a run that was never disturbed."""

import dataclasses
import random
import sys

import pandas
import pytest

from regard.errors import Failure
from support.dying import Dying
from support.killed import killed
from support.runs import left_behind, small, table

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked for in /proc")


def check(out, workers, examples):
    seed = random.SystemRandom().randrange(1 << 30)
    found = killed(out, workers, examples, seed)
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
    """Of one process and of workers, which die with it; their rows are those of one process."""
    kills = check(tmp_path / "run", [1, 2, 1], 12)
    assert kills[1]["alive"] >= 3
    assert kills[1]["shards"] > kills[0]["shards"]


@pytest.mark.long
def test_a_worker_that_dies_is_replaced_and_one_that_dies_again_ends_the_run(tmp_path):
    (tmp_path / "deaths").mkdir()
    how = {"workers": 2, "methods": ["random"], "protocols": ["segmentation"]}
    data = Dying(name="zoo/vit-scenes", deaths=1, folder=str(tmp_path / "deaths"))
    found = small(tmp_path / "once", data=data, **how)
    assert len([*(tmp_path / "deaths").iterdir()]) == 1
    assert found.complete
    undisturbed = small(tmp_path / "undisturbed", **how | {"workers": 1})
    pandas.testing.assert_frame_equal(table(tmp_path / "once" / "rows"), table(tmp_path / "undisturbed" / "rows"))
    assert undisturbed.complete
    with pytest.raises(
        Failure, match=r"the workers died over the examples \d to \d, for want of memory perhaps; what is done is"
    ):
        small(tmp_path / "again", data=dataclasses.replace(data, deaths=9), **how)
    assert left_behind(tmp_path / "again") == []


@pytest.mark.long
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_ten_times(tmp_path, workers):
    kills = check(tmp_path / "run", [workers] * 10, 20 * (workers + 1))
    assert sum(k["code"] == -9 for k in kills) >= 5  # a run that was done before is not killed
