"""A run's store: the rows of the runner in memory, whole or not at all, found again by anybody, and by no other plan."""

import dataclasses
import errno
import json
import math
import os
import re
import shutil
import tempfile
import time
from pathlib import Path

import pandas
import polars
import pytest
import torch
from PIL import Image

import regard
from regard import zoo
from regard.errors import Failure, InputError, Misuse, ModelError, UnknownName
from regard.evaluation import AttributionError, Example, Perturbation, Rationale, Segmentation, evaluate_rows, summaries
from regard.evaluation.data.bundled import Bundled
from regard.evaluation.engines import work
from regard.evaluation.plan import spelled
from regard.evaluation.protocols.words import asked_of, method_of, protocol_of
from regard.evaluation.store import lock
from regard.evaluation.store import store as stores
from regard.evaluation.store.columns import COLUMNS
from regard.evaluation.store.results import Results
from regard.evaluation.store.store import Store
from regard.explanation.raw_inputs import Reading
from support.runs import METHODS, PROTOCOLS, left_behind, small, table


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run that no test changes."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    small(out)
    return out


@pytest.fixture
def copied(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


@pytest.fixture
def computed(monkeypatch):
    """The numbers of the shards that are computed."""
    found, parquet = [], work.Worker.parquet
    monkeypatch.setattr(work.Worker, "parquet", lambda self, s: found.append(s.number) or parquet(self, s))
    return found


def same(a, b):
    return a == b or (math.isnan(a) and math.isnan(b))


def test_rows_are_those_of_the_runner_in_memory(whole, vit):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        data = Bundled(name="zoo/vit-scenes")
        expected = evaluate_rows(vit.model, [data.example(vit, i) for i in range(6)], METHODS, PROTOCOLS, batch=2)
    finally:
        torch.set_num_threads(threads)
    found = Results(whole)
    rows = found.rows()
    assert len(rows) == len(expected) > 100
    for a, b in zip(rows, expected, strict=True):
        assert same(a.value, b.value)
        assert dataclasses.replace(a, value=0.0) == dataclasses.replace(b, value=0.0)
        assert a.seconds > 0
    assert [str(s) for s in found.summaries] == [str(s) for s in summaries(expected)]
    assert found.complete
    assert found.errors == []


def test_anybody_can_read_it(whole, monkeypatch):
    """Every column, by plain pandas and polars; what the README says runs."""
    found = pandas.read_parquet(whole / "rows")
    assert list(found.columns) == list(COLUMNS)
    assert {*COLUMNS} - {"shard", "number"} == {*Results(whole).rows()[0].record()}
    assert set(found["title"]) == {"random", "corrected_attention, sign=signed"}
    assert json.loads(found[found.method == "corrected_attention"]["options"].iloc[0]) == {"sign": "signed"}
    assert set(found["protocol"]) == {p.name for p in PROTOCOLS}
    assert set(found["x"].dropna()) == {0.0, 0.5, 0.4}
    assert found["value"].notna().any()
    assert (found["error"] == "").all()
    assert polars.read_parquet(whole / "rows/*.parquet").height == len(found)
    monkeypatch.chdir(whole)
    (code,) = re.findall(r"```python\n(.*?)```", (whole / "README.md").read_text(), re.S)
    names = {}
    exec(code, names)
    assert names["rows"].height == len(found)
    assert left_behind(whole) == []


def test_the_same_call_again_goes_on(copied, whole, computed):
    """Finished shards are not computed anew; a damaged one and a missing one are, and the rows are the same."""
    small(copied)
    assert computed == []
    (copied / "rows/shard-000002.parquet").unlink()
    damaged = copied / "rows/shard-000000.parquet"
    data = bytearray(damaged.read_bytes())
    data[40] ^= 255
    damaged.write_bytes(data)
    (copied / "rows/.regard-0123456789abcdef").write_bytes(b"half")
    assert not Results(copied).store.done(plan_of(copied)) >= {0}
    told = []
    small(copied, told=told.append)
    assert computed == [0, 2]
    assert [(p.shards, p.examples) for p in told] == [(1, 2), (2, 4), (3, 6)]
    assert (told[0].shard, told[1].shard.number, told[-1].left) == (None, 0, 0.0)
    pandas.testing.assert_frame_equal(table(copied / "rows"), table(whole / "rows"))
    assert left_behind(copied) == []


def test_the_database_draws_nothing_and_writes_nothing_here(whole):
    """Of its own it draws a bar on stdout when a query takes seconds, and spills into the working directory."""
    asked = "SELECT current_setting('enable_progress_bar'), current_setting('temp_directory')"
    ((bar, spilled),) = Results(whole).sql(asked)
    assert (bar, Path(spilled).parent) == (False, Path(tempfile.gettempdir()))


def cut(file, whole):
    file.write_bytes(file.read_bytes()[:500])


def flipped(file, whole):
    """One bit of one number; what is compressed is read without a word by whoever compares no checksum."""
    data = bytearray(file.read_bytes())
    data[60] ^= 1
    file.write_bytes(data)


def another(file, whole):
    shutil.copy(whole / "rows/shard-000000.parquet", file)


def strange(file, whole):
    pandas.DataFrame({"a": [1]}).to_parquet(file)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (cut, "shard-000001.parquet is damaged or not whole; the same regard evaluate makes it anew"),
        (flipped, "shard-000001.parquet is damaged or not whole; the same regard evaluate makes it anew"),
        (another, "shard-000001.parquet is of another run; the same regard evaluate makes it anew"),
        (strange, "shard-000001.parquet is damaged or not whole; the same regard evaluate makes it anew"),
    ],
)
def test_results_of_a_damaged_or_foreign_file_are_refused(copied, whole, made, says):
    made(copied / "rows/shard-000001.parquet", whole)
    with pytest.raises(InputError, match=re.escape(says)):
        _ = Results(copied).summaries
    small(copied)
    pandas.testing.assert_frame_equal(table(copied / "rows"), table(whole / "rows"))


def test_a_file_that_is_none_of_the_plan_is_refused(copied):
    shutil.copy(copied / "rows/shard-000000.parquet", copied / "rows/shard-000099.parquet")
    with pytest.raises(InputError, match=r"shard-000099\.parquet is of another run; remove it"):
        Results(copied).rows()


def plan_of(out):
    return stores.Plan(**json.loads((out / "manifest.json").read_bytes())["plan"])


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"seed": 1}, "the seed was 0 and is 1"),
        ({"batch": 3}, "the batch was 2 and is 3; the size of a shard was 2 and is 3"),
        ({"memory_budget": "1MB"}, "the memory budget was 1073741824 and is 1048576"),
        ({"threads": 2}, "the number of threads was 1 and is 2"),
        ({"examples": 5}, "the number of examples was 6 and is 5"),
        (
            {"methods": ["random", "gae"]},
            'the methods are without corrected_attention, sign=signed ({"sign": "signed"}), and now with gae.',
        ),
        (
            {"methods": ["random", "corrected_attention(sign=negative)"]},
            'corrected_attention, sign=negative ({"sign": "negative"})',
        ),
        ({"methods": ["corrected_attention(sign=signed)", "random"]}, "the methods are in another order"),
        ({"protocols": [Segmentation("predicted")]}, "and now with segmentation/original/predicted/"),
        (
            {"data": "zoo/bert-sentiment", "protocols": ["attribution-error"]},
            "the data was zoo/vit-scenes and is zoo/bert-sentiment",
        ),
        ({"model": "zoo/bert-sentiment", "data": "zoo/vit-scenes"}, "the model was zoo/vit-scenes and is zoo/bert"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_another_plan_is_refused_by_what_differs(whole, changed, says):
    with pytest.raises(Misuse, match=re.escape(says)):
        small(whole, **changed)


def test_a_changed_model_file_code_or_version_is_refused_by_its_name(copied, tmp_path, monkeypatch):
    model = shutil.copytree(zoo.folder("zoo/vit-scenes"), tmp_path / "model")
    out = tmp_path / "mine"
    how = {"model": str(model), "data": "zoo/vit-scenes", "methods": ["random"], "examples": 2}
    small(out, **how)
    (model / "README.md").write_text("other prose")
    small(out, **how)
    config = json.loads((model / "config.json").read_bytes())
    (model / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-6}))
    with pytest.raises(Misuse, match=r"the model's file config\.json changed"):
        small(out, **how)
    monkeypatch.setattr("regard.evaluation.plan.files_digest", lambda *a: "another")
    monkeypatch.setattr("regard.version.__version__", "9.9")
    with pytest.raises(Misuse, match=r"regard was 0\.1\.0 and is 9\.9; Regard's code changed"):
        small(copied)


def test_given_examples_and_a_model_of_ones_own(vit, tmp_path):
    """Their tensors and weights are the fingerprints; what fails is a row."""
    data = Bundled(name="zoo/vit-scenes")
    good = [data.example(vit, i) for i in range(2)]
    nan = Example("nan", Reading({"pixel_values": torch.full((1, 3, 64, 64), math.nan)}), label=0, mask=good[0].mask)
    strange = dataclasses.replace(good[0], name="strange", label=99)
    small_mask = dataclasses.replace(good[0], name="small mask", mask=torch.ones(4, 4, dtype=torch.bool))
    every = [*good, nan, strange, small_mask]
    found = small(tmp_path / "x", model=vit, data=every, methods=["gae"], protocols=["segmentation"], examples=None)
    assert [(name, why.partition(":")[0]) for name, why, _ in found.errors] == [
        ("nan", "NonFinite"),
        ("strange", "TargetError"),
        ("small mask", "Misuse"),
    ]
    assert {s.errors for s in found.summaries} == {3}
    assert {s.examples for s in found.summaries} == {2}
    assert "3" in str(found).splitlines()[-1].split()
    every[1] = dataclasses.replace(every[1], label=3)
    with pytest.raises(Misuse, match="the content of the data changed"):
        small(tmp_path / "x", model=vit, data=every, methods=["gae"], protocols=["segmentation"], examples=None)


def test_a_place_that_is_no_disk_gets_each_file_at_once(whole, monkeypatch):
    """fsspec's memory, as of an object store: nothing but whole files is ever put, none renamed."""
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    monkeypatch.setattr(lock, "SETTLED", 0.01)
    put, pipe = [], type(memory).pipe_file
    monkeypatch.setattr(type(memory), "pipe_file", lambda self, p, d, **k: put.append(p) or pipe(self, p, d, **k))
    monkeypatch.setattr(type(memory), "mv", lambda *_, **__: pytest.fail("a file is renamed"))
    try:
        found = small("memory://bucket/run")
        names = [p.rpartition("/")[2] for p in put if not p.endswith(lock.LEASE)]
        assert names == ["manifest.json", "README.md", *(f"shard-00000{i}.parquet" for i in range(3))]
        for a, b in zip(found.rows(), Results(whole).rows(), strict=True):
            assert same(a.value, b.value)
            assert dataclasses.replace(a, value=0.0) == dataclasses.replace(b, value=0.0)
        assert not memory.exists("/bucket/run/lease.json")
        small("memory://bucket/run")
        assert len([p for p in put if not p.endswith(lock.LEASE)]) == 5
    finally:
        memory.rm("/bucket", recursive=True)


def test_killed_before_there_is_a_manifest(tmp_path):
    """What the killed run was writing is no reason to refuse the place."""
    out = tmp_path / "run"
    out.mkdir()
    for name in (".lock", ".regard-0123456789abcdef"):
        (out / name).write_text("half")
    small(out, methods=["random"], examples=2)
    assert left_behind(out) == []
    assert (out / "README.md").read_text().startswith("# A run of")


def test_a_disk_without_locks_has_a_lease(tmp_path, monkeypatch):
    import fcntl

    monkeypatch.setattr(lock, "SETTLED", 0.01)

    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    store = Store(tmp_path)
    with store.held():
        assert (tmp_path / lock.LEASE).exists()
        with pytest.raises(Misuse, match="another run"):
            small(tmp_path)
    assert not (tmp_path / lock.LEASE).exists()


def test_two_examples_of_one_name_are_refused(tmp_path, vit):
    one = Bundled(name="zoo/vit-scenes").example(vit, 0)
    with pytest.raises(Misuse, match="two examples are called 'scene 0'"):
        small(tmp_path / "x", model=vit, data=[one, one])


def test_what_cannot_be_sent_to_workers_is_refused(tmp_path, vit):
    data = [dataclasses.replace(Bundled(name="zoo/vit-scenes").example(vit, i), name=str(i)) for i in range(2)]
    data[0].reading.raw["pixel_values"] = [lambda: 0]
    with pytest.raises(Misuse, match=r"cannot be sent to other processes \(.*\); give them by name, or workers=1"):
        small(tmp_path / "x", model=vit, data=data, examples=None, batch=1, workers=2)


def test_a_second_run_is_told_and_stops(copied):
    store = Store(copied)
    with store.held(), pytest.raises(Misuse, match=r"another run \(process \d+ on .*\) is at work in"):
        small(copied)
    small(copied)


def test_a_lease_keeps_others_out_until_nobody_renews_it(monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    monkeypatch.setattr(lock, "SETTLED", 0.01)
    monkeypatch.setattr(lock, "BEAT", 0.02)
    monkeypatch.setattr(lock, "STALE", 0.3)
    mine, other = (lock.Lease(memory, "/lease.json", "memory://x") for _ in range(2))
    try:
        with mine.held():
            time.sleep(0.5)  # longer than a lease that is not renewed lives
            with pytest.raises(Misuse, match="another run"), other.held():
                pass
            mine.check()
            taken = json.dumps({"owner": "another", "beat": time.time()}).encode()
            memory.pipe_file("/lease.json", taken)
            time.sleep(0.1)
            with pytest.raises(Failure, match="another run has taken it over"):
                mine.check()
        assert memory.cat_file("/lease.json") == taken  # what is another's stays
        time.sleep(0.3)
        with other.held():
            other.check()
        assert not memory.exists("/lease.json")
    finally:
        if memory.exists("/lease.json"):
            memory.rm("/lease.json")


def test_a_full_disk_ends_in_one_sentence_and_the_run_goes_on(tmp_path, whole, monkeypatch, computed):
    replace = os.replace

    def full(old, new):
        if "000001" in str(new):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(old, new)

    monkeypatch.setattr(os, "replace", full)
    out = tmp_path / "full"
    with pytest.raises(
        Failure, match=r"cannot be written: No space left on device; what is done is kept, and the same"
    ):
        small(out)
    monkeypatch.setattr(os, "replace", replace)
    assert left_behind(out) == []
    small(out)
    assert computed == [0, 1, 1, 2]
    pandas.testing.assert_frame_equal(table(out / "rows"), table(whole / "rows"))


def test_what_is_refused_before_anything_runs(tmp_path, vit, computed):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "manifest.json").write_text("[1, 2")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "manifest.json").write_text('{"format": "regard-run-1", "plan": {"model": 3}}')
    for changed, error, says in [
        ({"out": tmp_path / "mine"}, Misuse, "holds other files"),
        ({"out": tmp_path / "bad"}, InputError, "is not the manifest of a run"),
        ({"out": tmp_path / "other"}, InputError, "is not the manifest of a run"),
        ({"out": tmp_path / "mine/thesis.txt/x"}, InputError, "cannot be written"),
        ({"out": ""}, Misuse, "out= is empty"),
        ({"out": "nowhere://x"}, Misuse, "cannot be reached"),
        ({"methods": ["gea"]}, UnknownName, "did you mean 'gae'"),
        ({"methods": []}, Misuse, "no method is named"),
        ({"methods": "random,gae"}, Misuse, "methods are a list: methods=['random', 'gae']"),
        ({"protocols": "segmentation"}, Misuse, "protocols are a list: protocols=['segmentation']"),
        ({"method": "gae"}, Misuse, "there is no argument method=: it is called methods="),
        ({"methods": ["gae", "gae"]}, Misuse, "the method gae is named twice"),
        ({"protocols": []}, Misuse, "no protocol is named"),
        ({"protocols": ["segmentatoin"]}, UnknownName, "did you mean 'segmentation'"),
        ({"protocols": ["segmentation(explainedd=true)"]}, UnknownName, "did you mean 'explained'"),
        ({"engine": "rya"}, UnknownName, "did you mean 'ray'"),
        ({"batch": 0}, Misuse, "batch must be a whole number"),
        ({"workers": 0}, Misuse, "workers must be a whole number"),
        ({"model": 3}, Misuse, "a model is a name"),
        ({"model": vit}, Misuse, "data= is missing"),
        ({"data": "/no/such/data"}, InputError, "there are no data at"),
        ({"data": "imagse:x"}, UnknownName, "did you mean 'images'"),
        ({"data": 3}, Misuse, "data are a name"),
        ({"split": "test"}, UnknownName, "option of data"),
    ]:
        with pytest.raises(error, match=re.escape(says)):
            small(**{"out": tmp_path / "new", **changed})
    assert computed == []
    assert not (tmp_path / "new").exists()
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("words", "kind", "labelled", "made"),
    [
        ("segmentation(explained=true)", "image", False, Segmentation("true")),
        ("Segmentation", "image", False, Segmentation("predicted")),
        ("perturbation", "text", True, Perturbation("word", "drop")),
        ("perturbation(unit=token, steps=[0.5], auc=[0, 0.5])", "text", True,
         Perturbation("token", "drop", steps=(0.5,), auc=(0, 0.5))),
        ("attribution_error( explained = true )", "image", True, AttributionError("true")),
        ("rationale(top=evidence, windows=1)", "text", True, Rationale("evidence", windows=1)),
    ],
)  # fmt: skip
def test_a_protocol_in_words(words, kind, labelled, made):
    assert protocol_of(words, kind, labelled) == made


def test_protocols_that_fit_the_data_are_asked_where_none_are_named():
    of = {name: [p.kind for p in asked_of(None, kind, Bundled(name=name))]
          for name, kind in (("zoo/vit-scenes", "image"), ("zoo/bert-sentiment", "text"))}  # fmt: skip
    assert of == {
        "zoo/vit-scenes": ["perturbation", "segmentation", "attribution-error"],
        "zoo/bert-sentiment": ["perturbation", "rationale", "attribution-error"],
    }


def test_a_method_in_words():
    made = method_of("revised_ig(baseline=blur:8, site=block[1], steps=2)")
    assert made.options == {"baseline": regard.Baseline.blur(8.0), "site": regard.Site.block(1), "steps": 2}
    assert made.title == "revised_ig, baseline=blur, sigma 8, site=block[1], steps=2"
    assert spelled(made.options) == {"baseline": "blur, sigma 8", "site": "block[1]", "steps": 2}
    one, other = (spelled({"baseline": regard.Baseline.of(torch.full((1,), v), label="mine")}) for v in (0.0, 1.0))
    assert one["baseline"].startswith("mine (")
    assert one != other
    for words in ("gae(", "gae(sign)", "gae(sign=)", "gae(a=1,a=2)", "", "gae rollout"):
        with pytest.raises(Misuse, match="is not understood"):
            method_of(words)


def test_a_protocol_that_no_row_could_find_again_is_refused(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Mine(Perturbation):
        pass

    with pytest.raises(Misuse, match="Mine is not in the table of protocols"):
        small(tmp_path / "x", protocols=[Mine()])


@pytest.mark.parametrize(
    ("model", "does"), [("zoo/detr-scenes", "finds objects"), ("zoo/llama-facts", "writes")], ids=["detr", "llama"]
)
def test_a_model_without_classes_is_refused_on_data_that_bring_no_way_to_ask_it(model, does, tmp_path):
    (tmp_path / "r.jsonl").write_text('{"text": "a fine film"}')
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    pictures = does == "finds objects"
    data, how = (f"images:{tmp_path}", {}) if pictures else (str(tmp_path / "r.jsonl"), {"column": "text"})
    for ask in (regard.evaluate, regard.doctor):
        with pytest.raises(ModelError, match=f" {does}, and methods are judged on models that put each input into"):
            ask(model, data, out=tmp_path / "x", **how)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("protocol", "data", "needed"),
    [
        ("segmentation", "zoo/bert-sentiment", "masks, which segmentation needs"),
        ("rationale", "zoo/vit-scenes", "rationales, which rationale needs"),
        ("known-tokens", "zoo/vit-scenes", "tokens that answers are known to rest on, which known-tokens needs"),
    ],
)
def test_a_protocol_that_the_data_cannot_be_judged_by_is_refused_at_once(protocol, data, needed, tmp_path):
    with pytest.raises(Misuse, match=f"{data} holds no {needed}; these data can be judged by perturbation, "):
        regard.evaluate(data, protocols=[protocol], out=tmp_path / "x")
    assert not (tmp_path / "x").exists()
