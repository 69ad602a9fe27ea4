"""What a run over 1.2 million pictures would take: docs/scale.md, from unit costs that are measured here, and a simulation.

    python benchmarks/scale.py                  # print all tables (some 20 minutes on one core)
    python benchmarks/scale.py --write          # and put them into docs/scale.md
    python benchmarks/scale.py --only store     # one of: work, store, cluster

`work`: 20 methods under 5 protocols on scenes of zoo/vit-scenes. How often the model runs, forwards and backwards, and how many
rows and bytes come of it, does not depend on how large the model is; what one run of a ViT-B/16 costs is timed beside it.
`store`: what is asked of a disk and of DuckDB, with real shards, one thousand and five thousand of them.
`cluster`: ten thousand workers of which one in a hundred dies each hour, on a clock that jumps (cluster.py).
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import re
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import measure
import torch
from cluster import Simulation, World
from pyarrow import parquet

import regard
from regard.evaluation.data.dataset import files_digest
from regard.evaluation.data.webdataset import WebDataset
from regard.evaluation.plan import Plan, Shard
from regard.evaluation.store.columns import META, about_of
from regard.evaluation.store.results import Results
from regard.evaluation.store.store import Store
from regard.report.evaluation.html import page

PAGE = measure.ROOT / "docs" / "scale.md"
PICTURES, SHARD = 1_200_000, 16
MODEL = "zoo/vit-scenes"
METHODS = (
    "random", "raw_attention", "rollout", "attention_grad_cam", "gae", "corrected_attention", "gradient", "input_x_gradient",
    "grad_cam", "layer_cam", "bti_token", "bti_head", "transition_attention", "integrated_gradients", "revised_ig", "legrad",
    "attnlrp", "cp_lrp", "gim", "occlusion",
)  # fmt: skip
PROTOCOLS = (
    "perturbation", "perturbation(order=negative)", "perturbation(fill=blur)", "segmentation", "attribution-error",
)  # fmt: skip
ASSUMED = 1000
"""Forward passes of a ViT-B/16 a second on one GPU: an assumption, for none was at hand. A backward pass counts as two."""
PUT = 0.05
"""Seconds that a cloud takes to store one object: an assumption, too."""
GROWN = (1000, 10_000)
"""Examples of the runs that `regard results` is timed on."""


def said(number: float) -> str:
    """A number with at most three digits that say something.

    >>> said(123456.0), said(0.01234)
    ('123,000', '0.0123')
    """
    if abs(number) < 100:
        return f"{number:.3g}"
    digits = max(0, len(f"{number:.0f}") - 3)
    return f"{round(number / 10**digits) * 10**digits:,.0f}"


def table(lines: list[tuple[str, str]]) -> str:
    """Two columns."""
    return "\n".join(["| | |", "|---|---|", *(f"| {a} | {b} |" for a, b in lines)])


# -- the work ------------------------------------------------------------------------------------------------------------


@dataclass
class Passes:
    """How many samples went through a model, forwards and backwards."""

    forward: int = 0
    backward: int = 0
    batch: int = 0

    @contextmanager
    def counted(self, model: torch.nn.Module) -> Iterator[None]:
        """Count what is run in here."""

        def run(_: Any, __: Any, given: dict[str, Any], ___: Any) -> None:
            self.batch = len(next(iter(given.values())))
            self.forward += self.batch

        real = torch.autograd.grad

        def grad(*args: Any, **options: Any) -> Any:
            self.backward += self.batch
            return real(*args, **options)

        handle = model.register_forward_hook(run, with_kwargs=True)
        torch.autograd.grad = grad  # type: ignore[assignment]
        try:
            yield
        finally:
            handle.remove()
            torch.autograd.grad = real


@dataclass
class Work:
    """What one picture takes, under all methods and protocols."""

    passes: Passes
    pictures: int
    rows: float
    kilobytes: float
    seconds: float
    forward: float
    backward: float
    of: dict[str, float] = field(default_factory=dict)


def work(out: Path, pictures: int = SHARD) -> Work:
    """A real run, counted; and a ViT-B/16, timed."""
    reader, passes = regard.load(MODEL), Passes()
    started = time.perf_counter()
    with passes.counted(reader.model):
        found = regard.evaluate(reader, MODEL, METHODS, PROTOCOLS, out, examples=pictures, batch=SHARD)
    seconds = time.perf_counter() - started
    rows = found.sql("SELECT count(*) FROM rows")[0][0]
    size = sum(os.path.getsize(f) for f in found.store.files())
    of = dict(found.sql("SELECT kind, count(*) / ? FROM rows GROUP BY kind ORDER BY kind", float(pictures)))
    errors = found.sql("SELECT DISTINCT title, kind, error FROM rows WHERE error != ''")
    if errors:
        print(f"left out by their errors: {errors}")
    return Work(passes, pictures, rows / pictures, size / pictures / 1000, seconds / pictures, *vit_b(), of)


def vit_b() -> tuple[float, float]:
    """Seconds of a forward and of a backward pass of a ViT-B/16 on one thread of this machine."""
    from transformers import ViTConfig, ViTForImageClassification

    torch.set_num_threads(1)
    model = ViTForImageClassification(ViTConfig(num_labels=1000)).eval()
    pixels = torch.rand(4, 3, 224, 224, requires_grad=True)

    def forward() -> None:
        with torch.no_grad():
            model(pixel_values=pixels)

    def both() -> None:
        torch.autograd.grad(model(pixel_values=pixels).logits[:, 0].sum(), pixels)

    times = measure.timed({"forward": forward, "both": both}, 3, time.process_time)
    one, two = (sorted(times[name])[1] / 4 for name in ("forward", "both"))
    return one, two - one


def work_table(w: Work) -> str:
    """The work of one picture and of all."""
    forward, backward = (n / w.pictures for n in (w.passes.forward, w.passes.backward))
    cores = PICTURES * (forward * w.forward + backward * w.backward) / 3600
    gpus = PICTURES * (forward + 2 * backward) / ASSUMED / 3600
    rows = ", ".join(f"{kind} {said(n)}" for kind, n in w.of.items())
    return f"`python benchmarks/scale.py`: {w.pictures} scenes of {MODEL}, {measure.machine()}.\n\n" + table([
        ("forward passes of one picture, 20 methods, 5 protocols", said(forward)),
        ("backward passes of one picture", said(backward)),
        ("rows of one picture", f"{said(w.rows)} ({rows})"),
        ("bytes of a row, on the disk", said(1000 * w.kilobytes / w.rows)),
        (f"shards of {SHARD} pictures", f"{PICTURES // SHARD:,}"),
        ("a shard", f"{said(w.rows * SHARD)} rows, {said(w.kilobytes * SHARD)} kB"),
        ("all rows", f"{said(w.rows * PICTURES / 1e9)} billion"),
        ("all bytes", f"{said(w.kilobytes * PICTURES / 1e6)} GB"),
        ("forward passes in all", f"{said(forward * PICTURES / 1e9)} billion"),
        ("backward passes in all", f"{said(backward * PICTURES / 1e9)} billion"),
        ("ViT-B/16, CPU time on this machine (measured)", f"forward {said(w.forward)} s, backward {said(w.backward)} s"),
        ("that is, on cores like this one", f"{said(cores)} core hours"),
        (f"at {ASSUMED:,} forward passes a second on a GPU (**assumed, not measured**)", f"{said(gpus)} GPU hours"),
        ("a shard at that rate, one GPU", f"{said(gpus * 3600 / PICTURES * SHARD)} s"),
    ])  # fmt: skip


# -- the store -----------------------------------------------------------------------------------------------------------

AVERAGES = """
    SELECT title, protocol, metric, avg(value) FROM rows
    WHERE x IS NULL AND error = '' AND NOT isnan(value) GROUP BY ALL
"""


def clocked(what: Callable[[], Any]) -> float:
    """Seconds of CPU time, of all threads: another program beside it does not change them much."""
    started = time.process_time()
    what()
    return time.process_time() - started


def store_table(out: Path, home: Path) -> str:
    """What files cost, real ones: the shard of a run, by many names."""
    shard = Path(Results(out).store.files()[0])
    data, lines = shard.read_bytes(), []
    rows = Results(out).sql("SELECT count(*) FROM rows WHERE shard = 0")[0][0]
    lines.append(("a shard", f"{rows:,} rows, {said(len(data) / 1000)} kB"))
    lines.append(("the manifest, however many shards", f"{said(os.path.getsize(out / 'manifest.json'))} bytes"))
    for count in (1000, 5000):
        many = home / str(count)
        many.mkdir()
        for number in range(count):
            os.link(shard, many / f"shard-{number:06}.parquet")
        found = duckdb.connect()
        found.execute("SET enable_progress_bar = false")
        opened = clocked(lambda found=found, many=many: found.execute(f"CREATE VIEW rows AS FROM '{many}/*.parquet'"))
        averages = clocked(lambda found=found: found.execute(AVERAGES).fetchall())
        rate = rows * count / averages / 1e6
        lines.append((f"DuckDB over {count:,} shards: opened", f"{said(opened)} s"))
        means = f"{said(averages)} s ({said(rate)} million rows a second)"
        lines.append((f"DuckDB over {count:,} shards: the mean of every metric", means))
    looked = clocked(lambda: [about_of(io.BytesIO(data)) for _ in range(50)]) / 50
    lines.append(
        ("looked at when a run goes on, each shard once (all pages, their checksums)", f"{said(1000 * looked)} ms")
    )
    some = Results(out)
    one = some.rows(some.protocols[0].name, "gae")
    taken = clocked(lambda: some.rows(some.protocols[0].name, "gae"))
    lines.append(("`Results.rows`, each an object of Python", f"{said(len(one) / taken)} a second"))
    for examples in GROWN:
        large = grown(out, home / f"of {examples}", examples)
        count = said(Results(large).sql("SELECT count(*) FROM rows")[0][0] / 1e6)
        with multiprocessing.get_context("spawn").Pool(1) as alone:
            seconds, megabytes = alone.apply(results_cost, (large,))
        lines.append(
            (
                f"`regard results` of {examples:,} pictures, {count} million rows: table and page",
                f"{said(seconds)} s, {said(megabytes)} MB at most",
            )
        )
    plan = Plan(**some.plan)
    place = Store(home / "published")
    with place.held():
        place.begin(plan)
        put = clocked(lambda: [place.publish(Shard(i, i, i + 1), data) for i in range(100)]) / 100
    lines.append(("published on this disk, each shard", f"{said(1000 * put)} ms"))
    lines += data_costs(home)
    return f"`python benchmarks/scale.py`: CPU time, {measure.machine()}.\n\n" + table(lines)


def grown(out: Path, into: Path, examples: int) -> Path:
    """A run of so many examples: those of a real one again and again, by other names, and each time with other values."""
    (into / "rows").mkdir(parents=True)
    manifest = json.loads((out / "manifest.json").read_text())
    count = manifest["plan"]["count"]
    manifest["plan"] |= {"count": examples, "shard": count}
    (into / "manifest.json").write_text(json.dumps(manifest))
    plan = Plan(**manifest["plan"])
    for shard in plan.shards:
        columns = (
            f"number + {shard.first} AS number, example || '-{shard.number}' AS example, "
            f"value + 0.01 * sin(number + {shard.number}) AS value"
        )
        query = f"SELECT * REPLACE ({columns}) FROM '{out}/rows/*.parquet' ORDER BY number"
        rows = duckdb.sql(query).arrow().read_all()
        about = {"plan": plan.digest, "shard": shard.number, "rows": len(rows)}
        parquet.write_table(
            rows.replace_schema_metadata({META: json.dumps(about)}), into / "rows" / shard.name, compression="zstd"
        )
    return into


def results_cost(out: Path) -> tuple[float, float]:
    """Seconds of CPU time for the table and the page of a run, and the megabytes that the process had at most."""
    found = Results(out)

    def shown() -> None:
        found.table()
        page(found.measured(protocol.name) for protocol in found.protocols)

    seconds = clocked(shown)
    (peak,) = re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())  # ru_maxrss has the parent's, too
    return seconds, int(peak) / 1024


def data_costs(home: Path) -> list[tuple[str, str]]:
    """What the data cost before the first picture is explained."""
    folder, picture = home / "pictures", os.urandom(110_000)
    folder.mkdir()
    for number in range(2000):
        (folder / f"{number}.jpg").write_bytes(picture)
    files = [*folder.iterdir()]
    found = clocked(lambda: files_digest(files)) / len(files)
    path = home / "samples.tar"
    with tarfile.open(path, "w") as tar:
        for number in range(20_000):
            for ending, content in (("jpg", picture[:1000]), ("cls", b"7")):
                info = tarfile.TarInfo(f"{number:06}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    indexed = clocked(lambda: WebDataset(tars=str(path))) / 20_000
    return [
        ("the fingerprint of a picture of 110 kB, a file of its own (already in memory)", f"{said(1000 * found)} ms"),
        ("the place of a sample in a tar looked up (once, when the run begins)", f"{said(1e6 * indexed)} µs"),
    ]


# -- the cluster ---------------------------------------------------------------------------------------------------------


def cluster_table(home: Path, world: World, examples: int) -> str:
    """A run without failures, one whose workers fail, and one whose coordinators do as well; the last writes every file."""
    calm = Simulation(home, world.undisturbed, examples, SHARD)
    rough = Simulation(home, world, examples, SHARD)
    whole = Simulation(home / "run", world, examples, SHARD)
    calm.decided()
    rough.decided()
    started = time.perf_counter()
    whole.run()
    took = time.perf_counter() - started
    found = Results(whole.out)
    count, distinct, least, most = found.sql(
        "SELECT count(*), count(DISTINCT number), min(value), max(value) FROM rows"
    )[0]
    assert (count, distinct, least, most) == (examples, examples, 0, examples - 1), (count, distinct)
    assert len(found.store.done(whole.plan)) == len(whole.plan.shards)
    assert not [*whole.out.rglob(".regard-*")]
    lines = [
        "| | no failures | workers fail | workers and coordinators fail |",
        "|---|---|---|---|",
        row("hours on the simulated clock", *(f"{s.clock.now / 3600:.2f}" for s in (calm, rough, whole))),
        row("beside no failures", *(f"{s.clock.now / calm.clock.now:.2f} x" for s in (calm, rough, whole))),
    ]
    names = {
        "deaths": "workers that died",
        "lost": "shards lost with them",
        "again": "late shards given out once more",
        "killed": "coordinators killed",
        "half": "... of them between temporary file and rename",
        "stalled": "coordinators that slept past their lease",
        "refused": "... and were kept from publishing",
        "given": "tries of a shard in all",
    }
    lines += [row(text, *(f"{getattr(s.told, n):,}" for s in (calm, rough, whole))) for n, text in names.items()]
    lines.append(row("rows in the store: in all, different ones", "", "", f"{count:,}, {distinct:,}"))
    shards = f"{examples:,} examples in {len(whole.plan.shards):,} shards of {world.seconds:.0f} s each"
    what = (
        f"`python benchmarks/scale.py`: {world.workers:,} workers, {shards} (half to one and a half of it). "
        f"{100 * world.deaths:g} % of the workers die an hour, and another stands in their place after {world.replaced:.0f} s; "
        f"{100 * world.straggling:g} % of the tries take {world.slower:g} times as long, {100 * world.hanging:g} % never end. "
        f"The last column took {took / 60:.0f} minutes here."
    )
    return what + "\n\n" + "\n".join(lines)


def row(*cells: str) -> str:
    """A line of a table."""
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the tables, or write them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="into docs/scale.md")
    parser.add_argument("--only", choices=("work", "store", "cluster"))
    parser.add_argument("--workers", type=int, default=10_000)
    parser.add_argument("--examples", type=int, default=PICTURES)
    parser.add_argument("--scenes", type=int, default=SHARD, help="that the work is counted on")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        texts = {}
        if args.only != "cluster":
            made = work(home / "work", args.scenes)
            texts["scale-work"] = work_table(made)
            texts["scale-store"] = store_table(home / "work", home)
        if args.only in (None, "cluster"):
            texts["scale-cluster"] = cluster_table(home / "cluster", World(workers=args.workers), args.examples)
        for name, text in texts.items():
            print(f"\n## {name}\n\n{text}", flush=True)
            if args.write:
                measure.write(name, text, PAGE)


if __name__ == "__main__":
    main()
