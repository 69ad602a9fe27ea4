"""What is computed next, and what becomes of what does not come back; and a cluster that fails in many ways."""

import sys
from pathlib import Path

import pytest

from regard.errors import Failure
from regard.evaluation.engines.schedule import Crew, Schedule, ShardLost, computed
from regard.evaluation.plan import Shards
from regard.evaluation.store.results import Results
from regard.evaluation.store.store import Store
from support.runs import left_behind

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SHARDS = Shards(10, 2)


@pytest.fixture
def cluster(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield __import__("cluster")
    sys.modules.pop("cluster", None)


def given(schedule, now=0.0):
    """All that it gives out at a time."""
    return [s.number for s in iter(lambda: schedule.next(now), None)]


def test_shards_go_out_in_order_and_a_lost_one_waits_before_all_others():
    schedule = Schedule(SHARDS, tries=2)
    first, second = schedule.next(0), schedule.next(0)
    schedule.lost(first)
    assert given(schedule) == [0, 2, 3, 4]
    assert schedule.finished(second, 1.0)
    assert not schedule.finished(second, 1.0)
    for shard in SHARDS:
        schedule.finished(shard, 1.0)
    assert schedule.over
    schedule.check()


def test_a_shard_that_ends_its_workers_is_given_up_and_the_others_go_on():
    schedule = Schedule(SHARDS, tries=2)
    for _ in range(2):
        schedule.lost(schedule.next(0))
    assert given(schedule) == [1, 2, 3, 4]
    for shard in SHARDS[1], SHARDS[2], SHARDS[3], SHARDS[4]:
        schedule.finished(shard, 1.0)
    assert schedule.over
    with pytest.raises(
        Failure, match="the workers died over the examples 0 to 1, for want of memory perhaps; what is done"
    ):
        schedule.check()


def test_of_several_that_died_together_each_is_tried_alone():
    schedule = Schedule(SHARDS, tries=2, alone=True)
    out = [schedule.next(0) for _ in range(3)]
    for shard in out:
        schedule.lost(shard)
    for _ in range(3):
        alone = schedule.next(0)
        assert schedule.next(0) is None
        (schedule.lost if alone.number == 1 else lambda s: schedule.finished(s, 1.0))(alone)
    assert [s.number for s in schedule.given_up] == [1]
    assert given(schedule) == [3, 4]


def test_a_shard_that_takes_long_is_given_out_once_more_when_nothing_else_waits():
    schedule = Schedule(SHARDS, tries=2, patience=4.0)
    assert given(schedule) == [0, 1, 2, 3, 4]
    assert schedule.due(1e9) is None  # how long one takes is not known
    for number in range(3):
        schedule.finished(SHARDS[number], 100.0)
    assert schedule.due(150.0) == 250.0
    assert given(schedule, 399.0) == []
    assert given(schedule, 400.0) == [3, 4]
    assert given(schedule, 400.0) == []
    assert schedule.copies(SHARDS[3]) == 2
    schedule.lost(SHARDS[3])  # one copy of it; the other is still out
    assert given(schedule, 401.0) == []
    assert schedule.finished(SHARDS[3], 500.0)
    schedule.lost(SHARDS[3])  # the other dies when it is there already
    assert given(schedule, 900.0) == [4]  # a third time: both may hang
    assert schedule.finished(SHARDS[4], 901.0)
    assert schedule.over


class Scripted(Crew):
    """Each shard comes back at once, as often lost as is said."""

    def __init__(self, lost):
        self.lost, self.tasks, self.most = dict(lost), {}, 0

    def room(self):
        return 2

    def give(self, shard):
        self.tasks[len(self.tasks)] = shard
        return len(self.tasks) - 1

    def back(self, out, seconds):
        self.most = max(self.most, len(out))
        return list(out)

    def result(self, task):
        number = self.tasks[task].number
        self.lost[number] = self.lost.get(number, 0) - 1
        if self.lost[number] >= 0:
            raise ShardLost("OutOfMemoryError")
        return bytes([number])

    def cancel(self, task):
        raise AssertionError("nothing is left")


def test_no_more_are_out_than_there_is_room_and_each_comes_once():
    crew = Scripted({1: 1, 3: 2})
    found = [(shard.number, data) for shard, data in computed(crew, Schedule(SHARDS, tries=3))]
    assert sorted(found) == [(n, bytes([n])) for n in range(5)]
    assert crew.most == 2
    found = []
    with pytest.raises(
        Failure, match=r"over the examples 2 to 3 and over one more shard \(OutOfMemoryError\), for want"
    ):
        found.extend(s.number for s, _ in computed(Scripted({1: 9, 4: 9}), Schedule(SHARDS, tries=3)))
    assert sorted(found) == [0, 2, 3]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 20))])
def test_every_row_is_there_once_whatever_dies(tmp_path, cluster, seed):
    """Workers die, straggle and hang; coordinators are killed, one of them between file and rename, and one sleeps too long."""
    world = cluster.World(workers=40, deaths=0.5, straggling=0.05, hanging=0.03, killed=2, stalled=1)
    run = cluster.Simulation(tmp_path / "run", world, examples=359, size=2, seed=seed)
    told = run.run()
    found = Results(run.out)
    assert found.sql("SELECT count(*), count(DISTINCT number), min(value), max(value) FROM rows") == [
        (359, 359, 0, 358)
    ], seed
    assert Store(run.out).done(run.plan) == set(range(180)), seed
    assert left_behind(run.out) == [], seed
    assert (told.killed, told.half, told.stalled, told.refused) == (2, 1, 1, 1), seed
    assert told.deaths > 5, seed
    assert told.again > 0, seed
    assert told.given > 180, seed


def test_a_world_without_failures_takes_the_time_of_its_work(tmp_path, cluster):
    """And failures cost what they cost: nobody is waited for who is gone."""
    world = cluster.World(workers=100, deaths=0.1, publishing=0.0)
    runs = [cluster.Simulation(tmp_path, w, 3000, 1) for w in (world.undisturbed, world)]
    calm, rough = (run.decided() for run in runs)
    assert (calm.published, calm.given, calm.lost) == (3000, 3000 + calm.again, 0)
    assert calm.again < 100  # at the end, on slots that have nothing else to do
    assert rough.published == 3000
    assert rough.lost > 5
    ideal = 3000 / 100 * world.seconds
    assert ideal < runs[0].clock.now < 1.1 * ideal
    assert runs[0].clock.now < runs[1].clock.now < 1.5 * ideal
