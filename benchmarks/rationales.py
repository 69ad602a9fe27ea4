"""Human rationales: `zoo/bert-sentiment` on the ERASER movie reviews, in windows of whole sentences, for the methods asked for.

The data is not ours to ship: `--data` is the folder of ERASER jsonl files (default `../shared/data/eraser_movies` beside the
repository). The test split alone is used: its annotation is denser than that of train and val, and precision-like scores
compare within a split only. As many words are marked as the annotator marked (`top=evidence`).

    python benchmarks/rationales.py --documents 50 --methods random raw_attention gae
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import regard
from regard.evaluation import Rationale, differences, evaluate_documents, read_eraser, summaries

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "eraser_movies"
SHOWN = ("token_f1", "iou_f1", "auprc", "ap", "comprehensiveness", "sufficiency")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--documents", type=int, default=50)
    parser.add_argument(
        "--methods", nargs="+", default=["random", "raw_attention", "rollout", "gae", "input_x_gradient"]
    )
    asked = parser.parse_args()
    documents = read_eraser(asked.data, "test")
    documents = documents[:: max(1, len(documents) // asked.documents)][
        : asked.documents
    ]  # both classes: the file is sorted
    rows = evaluate_documents(regard.load("zoo/bert-sentiment"), documents, asked.methods, [Rationale(top="evidence")])
    right = len({r.example for r in rows if r.title == asked.methods[0] and r.right})
    print(f"{rows[0].protocol.name}\n{len(documents)} documents of the test split, {right} classified right, "
          f"{sum(bool(r.error) for r in rows)} errors\n")  # fmt: skip
    print(f"| method | split | {' | '.join(SHOWN)} |\n|---|---|{'---|' * len(SHOWN)}")
    found = {(s.title, s.split, s.metric): s.value for s in summaries(rows, split=True)}
    for method in asked.methods:
        for split in ("all", "right", "wrong"):
            cells = [str(found.get((method, split, metric), "")) for metric in SHOWN]
            print(f"| {method} | {split} | {' | '.join(cells)} |")
    if "random" in asked.methods:
        for metric in SHOWN:
            above = [f"{d.title} {d.value}{'' if d.sure else ' (not sure)'}" for d in differences(rows, metric)]
            print(f"\n{metric} − random: {'; '.join(above)}")


if __name__ == "__main__":
    main()
