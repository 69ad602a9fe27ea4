"""Shards on a real Ray of two nodes, one of which is killed during the run: the rows of this machine's own engine."""

import time
import warnings

import pandas
import pytest

from regard.errors import Misuse
from regard.evaluation.engines import ray as engine
from support.runs import left_behind, small, table

pytestmark = pytest.mark.long


@pytest.fixture
def cluster():
    ray = pytest.importorskip("ray")
    utils = pytest.importorskip("ray.cluster_utils")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        ray.init(address=found.address, log_to_driver=False)
        yield found
        ray.shutdown()
        found.shutdown()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(900)
def test_rows_are_the_same_although_a_node_is_killed(tmp_path, cluster):
    import ray

    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    assert ray.cluster_resources()["CPU"] == 2
    how = {"examples": 24, "batch": 2}
    alone = tmp_path / "alone"
    small(alone, **how)
    killed = []

    def told(progress):
        if progress.shards == 3 and not killed:
            killed.append(len([n for n in ray.nodes() if n["Alive"]]))
            cluster.remove_node(second, allow_graceful=False)

    found = small(tmp_path / "cluster", engine="ray", told=told, **how)
    assert killed == [2]
    assert found.complete
    ends = time.monotonic() + 120  # that a node is dead shows when its heartbeat is missed
    while (alive := len([n for n in ray.nodes() if n["Alive"]])) > 1 and time.monotonic() < ends:
        time.sleep(0.5)
    assert alive == 1
    pandas.testing.assert_frame_equal(table(tmp_path / "cluster" / "rows"), table(alone / "rows"))
    assert left_behind(tmp_path / "cluster") == []
    with pytest.raises(Misuse, match="the seed was 0 and is 1"):
        small(tmp_path / "cluster", engine="ray", seed=1, **how)


@pytest.mark.filterwarnings("ignore")
def test_what_a_shard_raises_is_what_the_user_sees(tmp_path, cluster, monkeypatch):
    monkeypatch.setattr(engine, "_parquet", failing)
    with pytest.raises(Misuse, match=r"^not this one$"):
        small(tmp_path / "x", engine="ray")


def failing(work, shard):
    raise Misuse("not this one")
