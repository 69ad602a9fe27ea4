"""Beside the `lime` package: the same coefficients at the same samples, of sentences that zoo/bert-sentiment reads.

The package's text explainer runs in an environment of its own (see peers.py), without torch: the texts that it perturbs go to
the model here, and the logits back, over a pipe. It says which words it left in which copy; our `lime` then takes these very
copies, runs the model on them itself, and fits. Both replace a word by [MASK], word by word (`bow=False`), by the package's
kernel width and ridge. Coefficients must agree to 1e-5 of the largest; the script ends with an error where they do not.

    python benchmarks/lime_text.py            # makes an environment for lime==0.2.0.1, then compares
    python benchmarks/lime_text.py --write    # and puts the table into docs/benchmarks.md
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

SENTENCES = (
    "a wonderful film with a terrible ending that we all saw",
    "the acting is dull but the music is a delight",
    "not a bad story and the camera work is superb throughout",
    "i loved every single song in this boring story",
    "an awful mess of a movie saved by one great actor",
)
SAMPLES, SEED, LIMIT = 200, 0, 1e-5


# -- in the package's environment ------------------------------------------------------------------------------------------


def peer() -> None:
    """Answer each text that is asked for, one JSON line each way."""
    from lime.lime_text import IndexedString, LimeTextExplainer

    def model(texts: list[str]) -> Any:
        import numpy as np

        return np.array(_asked({"texts": texts})["logits"])[:, None]

    for line in sys.stdin:
        text = json.loads(line)["text"]
        explainer = LimeTextExplainer(bow=False, mask_string="[MASK]", random_state=SEED, split_expression=r"\W+")
        indexed = IndexedString(text, bow=False, split_expression=r"\W+", mask_string="[MASK]")
        make = explainer._LimeTextExplainer__data_labels_distances  # noqa: SLF001 (it alone gives the samples)
        data, y, distances = make(indexed, model, SAMPLES, distance_metric="cosine")
        words = data.shape[1]
        intercept, found, r2, _ = explainer.base.explain_instance_with_data(
            data, y, distances, 0, words, feature_selection="none"
        )
        of = {int(i): float(b) for i, b in found}
        done = {"kept": data.astype(int).tolist(), "coefficients": [of[i] for i in range(words)]}
        print(json.dumps(done | {"intercept": float(intercept), "r2": float(r2)}), flush=True)


def _asked(question: dict[str, Any]) -> Any:
    print(json.dumps(question), flush=True)
    return json.loads(sys.stdin.readline())


# -- here ------------------------------------------------------------------------------------------------------------------


def theirs(pipe: subprocess.Popen[str], reader: Any, text: str, label: int) -> dict[str, Any]:
    """What the package finds; its perturbed texts are read by the model here."""
    import torch

    assert pipe.stdin is not None
    assert pipe.stdout is not None
    print(json.dumps({"text": text}), file=pipe.stdin, flush=True)
    while "texts" in (said := json.loads(pipe.stdout.readline())):
        with torch.no_grad():
            logits = [reader.model(**reader.read(t).inputs).logits[0, label].item() for t in said["texts"]]
        print(json.dumps({"logits": logits}), file=pipe.stdin, flush=True)
    return dict(said)


def ours(reader: Any, text: str, label: int, kept: Any) -> Any:
    """Our explanation, on given copies."""
    import torch

    from regard.attribution.removal import lime

    drawn, lime.lime_draws = lime.lime_draws, lambda units, count, seed: ~torch.tensor(kept).bool()
    try:
        return reader.explain(text, target=label, method="lime", samples=len(kept), baseline="mask", bow=False)
    finally:
        lime.lime_draws = drawn


def compared(pipe: subprocess.Popen[str], reader: Any, text: str) -> list[Any]:
    """Words, the largest difference over the largest coefficient, and both R²."""
    label = 1
    found = theirs(pipe, reader, text, label)
    exp = ours(reader, text, label, found["kept"])
    mine, them = [w.score for w in exp.words[0]], found["coefficients"]
    if len(mine) != len(them):
        raise SystemExit(f"{text!r}: {len(mine)} words here, {len(them)} there")
    apart = max(abs(a - b) for a, b in zip(mine, them, strict=True)) / max(abs(b) for b in them)
    return [text, len(them), apart, float(exp.receipt.surrogate.r2[0]), found["r2"]]


def main() -> None:
    """Compare, print, and end with an error where coefficients differ."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="into docs/benchmarks.md")
    given = parser.parse_args()
    import measure
    from peers import Peer

    import regard

    env = Peer("lime", ("lime==0.2.0.1", "setuptools"), ())
    env.make()
    reader = regard.load("zoo/bert-sentiment")
    command = [str(env.python), __file__, "--peer"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as pipe:
        rows = [compared(pipe, reader, text) for text in SENTENCES]
        pipe.stdin.close()  # type: ignore[union-attr]
    lines = ["| sentence | words | largest difference | R², ours | R², lime |", "|---|---|---|---|---|"]
    lines += [f"| {text} | {words} | {apart:.1e} | {a:.6f} | {b:.6f} |" for text, words, apart, a, b in rows]
    table = "\n".join(lines)
    print(table)
    if given.write:
        measure.write("lime", table)
    if max(row[2] for row in rows) > LIMIT:
        raise SystemExit(f"coefficients differ by more than {LIMIT} of the largest")


if __name__ == "__main__":
    peer() if "--peer" in sys.argv else main()
