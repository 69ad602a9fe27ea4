"""Do words look at the regions that they name, and what does it change to make them: docs/heterogenous.md, "Grounding".

    python benchmarks/grounding.py           # print the tables
    python benchmarks/grounding.py --write   # and put them into docs/heterogenous.md

`zoo/lxmert-scenes`: the bundled questions of which it is known which regions the asked word names. One thread, some seconds;
the numbers do not depend on the machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import measure
import torch
from torch import Tensor
from transformers import AutoTokenizer, LxmertForQuestionAnswering

import regard
from regard import Target, zoo
from regard.evaluation.statistics import mean_with_interval
from regard.probes.grounding import pointing

PAGE = measure.ROOT / "docs" / "heterogenous.md"
WORDS, REGIONS = "input_ids", "visual_feats"
TARGET = Target.logit(output="question_answering_score")


class Asked:
    """The questions whose asked word names regions, the model, and the probe of grounding on them."""

    def __init__(self) -> None:
        home, every = zoo.folder("zoo/lxmert-scenes"), zoo.questions()
        self.questions = every.select(torch.tensor([bool(own) for own in every.phrases()]))
        self.model = LxmertForQuestionAnswering.from_pretrained(home).eval()
        tokenizer = AutoTokenizer.from_pretrained(home)
        ids = tokenizer(list(self.questions.texts), padding=True, return_tensors="pt", return_token_type_ids=False)
        self.inputs = dict(ids) | self.questions.inputs()
        self.scenes = self.questions.scene.tolist()
        self.found = self.grounded([[(t, of) for t, of in own] for own in self.questions.phrases()])

    def grounded(self, pairs: Sequence[Any]) -> Any:
        """The probe on some pairs."""
        return regard.probe.grounding(self.model, self.inputs, TARGET, pairs=pairs)

    def told(self, values: Tensor, some: Tensor | None = None) -> str:
        """A mean with its interval over scenes, of some questions."""
        keep = torch.ones(len(values), dtype=torch.bool) if some is None else some
        found = mean_with_interval(values[keep].tolist(), groups=torch.tensor(self.scenes)[keep].tolist())
        return f"{found.value:.3g} [{found.low:.3g}, {found.high:.3g}]"

    def right(self, predicted: Tensor) -> Tensor:
        """1 where the answer is the true one."""
        ids = self.model.config.label2id
        return predicted.eq(torch.tensor([ids[a] for a in self.questions.answers])).double()

    def elsewhere(self) -> Tensor:
        """For each question one region that it does not rest on: another item, else clutter; (question, 8)."""
        items = (self.questions.items[self.questions.scene] >= 0).double()
        free = torch.where(self.questions.evidence, -1.0, items)
        return torch.nn.functional.one_hot(free.argmax(1), free.shape[1])


def layers(asked: Asked) -> str:
    """Where the asked word looks, layer by layer."""
    found = asked.found
    lines = [
        "| attention | on the known regions | pointing | KL, nats | best head | its pointing |",
        "| --- " * 6 + "|",
    ]
    for i, row in enumerate(found.rows()):
        numbers = (asked.told(t[i]) for t in (found.on_known, found.pointing, found.kl))
        lines.append(
            f"| {row.layer}, `{row.module}` | {' | '.join(numbers)} | {row.best_head} | {row.best_pointing:.3g} |"
        )
    even = (asked.told(t) for t in (found.chance, found.chance, found.kl_even))
    lines.append(f"| even attention | {' | '.join(even)} | | |")
    return "\n".join(lines) + f"\n\n{len(found.phrases)} questions, 95 % bootstrap intervals over their scenes."


def kinds(asked: Asked) -> str:
    """Pointing by kind of question."""
    found, names = asked.found, [*dict.fromkeys(asked.questions.kinds)]
    lines = [f"| pointing, attention | {' | '.join(names)} |", "| --- " * (1 + len(names)) + "|"]
    rows = [*zip([str(n) for n in found.layers], found.pointing, strict=True), ("even attention", found.chance)]
    of = {kind: torch.tensor([k == kind for k in asked.questions.kinds]) for kind in names}
    for name, values in rows:
        lines.append(f"| {name} | {' | '.join(asked.told(values, some) for some in of.values())} |")
    answer = asked.questions.source.double()
    read = asked.told(pointing(found.attention[-1], answer), of["relation"])
    return "\n".join(lines) + (
        f"\n\nIn a relation the word names the item beside the one asked for; at the latter it points in {read} of attention "
        f"{found.layers[-1]}."
    )


def priors(asked: Asked) -> str:
    """What another attention of words to regions changes."""
    questions, found, away = asked.questions, asked.found, asked.elsewhere()
    wrong = asked.grounded([[(f.tokens, int(r.argmax()))] for f, r in zip(found.phrases, away, strict=True)])

    def all_words(weights: Tensor) -> Any:
        count = asked.inputs[WORDS].shape[1]
        prior = {(WORDS, REGIONS): weights[:, None].expand(-1, count, -1)}
        return regard.probe.rerun(asked.model, asked.inputs, TARGET, attention=prior)

    runs = {
        "the asked word at the regions that it names": found,
        "the asked word at another item": wrong,
        "all words at the regions that the answer rests on": all_words(questions.evidence),
        "all words at another item": all_words(away),
        "all words evenly": all_words(torch.ones_like(away)),
    }
    lines = [
        "| attention of words to regions | right answers | answers changed | the logit changes by |",
        "| --- " * 4 + "|",
    ]
    lines.append(f"| the model's own | {asked.told(asked.right(found.predicted_before))} | | |")
    for name, run in runs.items():
        changed = run.predicted_after.ne(run.predicted_before).double()
        numbers = (asked.right(run.predicted_after), changed, run.after - run.before)
        lines.append(f"| {name} | {' | '.join(map(asked.told, numbers))} |")
    return "\n".join(lines)


def main() -> None:
    """Print the tables; write them if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    asked = Asked()
    for name, section in (("grounding", layers), ("grounding-kinds", kinds), ("grounding-priors", priors)):
        text = section(asked)
        print(f"\n## {name}\n\n{text}", flush=True)
        if given.write:
            measure.write(name, text, PAGE)


if __name__ == "__main__":
    main()
