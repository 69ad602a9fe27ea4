"""Protocol 2 against loops over single copies, literal drops, and the traps of public code."""

import math

import pytest
import torch
from torch import nn
from transformers import Dinov2Config, Dinov2ForImageClassification

import regard
from regard import zoo
from regard.attribution.removal.units import groups_of
from regard.errors import Misuse
from regard.evaluation import (
    Example,
    Perturbation,
    comprehensiveness,
    deletion,
    examples_of,
    insertion,
    perturbation,
    sample_of,
    sufficiency,
)
from regard.evaluation.protocols.perturbation import auc, counted, order_of, tie_seed
from regard.explanation.raw_inputs import Reading
from support.records import record
from support.tiny import noise, strong


@pytest.fixture(scope="module")
def scenes(vit):
    found = zoo.scenes()
    reading = vit.read(list(found.images[:3]))
    examples = examples_of(reading, labels=found.labels[:3, 0], masks=found.masks[:3, 0])
    exp = vit.explain(list(found.images[:3]), method="gae")
    return examples, [sample_of(exp, i) for i in range(3)]


@torch.no_grad()
def probability(model, inputs, c):
    return float(model(**inputs).logits.double().softmax(-1)[0, c])


@pytest.mark.parametrize(
    ("fill", "order"), [("black", "positive"), ("black", "negative"), ("mean", "positive"), ("zero", "negative")]
)
def test_pixels_agree_with_a_loop_over_single_images(vit, scenes, order, fill):
    examples, maps = scenes
    for example, exp in zip(examples[:1], maps):
        row = record(perturbation(vit.model, exp, example, Perturbation("pixel", fill, order)))
        x = example.reading.inputs["pixel_values"]
        relevance = exp.image_map((64, 64)).flatten().tolist()
        drawn = torch.randperm(4096, generator=torch.Generator().manual_seed(tie_seed(0, example.name)))
        by = sorted(drawn.tolist(), key=lambda i: relevance[i], reverse=order == "positive")
        c = row.predicted
        for step, p in zip((0, *range(1, 10)), row.curves["probability"]):
            changed = x.clone()
            for channel in range(3):
                black = (0 - example.reading.mean[channel]) / example.reading.std[channel]
                value = {"black": black, "mean": float(x[0, channel].mean()), "zero": 0.0}[fill]
                flat = changed[0, channel].view(-1)
                for i in by[: 4096 * step // 10]:
                    flat[i] = value
            assert p == pytest.approx(probability(vit.model, {"pixel_values": changed}, c), abs=2e-5)


def kept_only(model, block, keep):
    """The rows `keep` are all that a model's first block is given."""
    return block.register_forward_pre_hook(
        lambda m, args, kwargs: ((args[0][:, keep], *args[1:]), kwargs), with_kwargs=True
    )


def literal_drop(model, block, inputs, order, counts, prefix):
    """Logits with the first so many patches of an order really cut out of the sequence."""
    out = []
    for count in counts:
        away = set((order[:count] + prefix).tolist())
        keep = [i for i in range(len(order) + prefix) if i not in away]
        handle = kept_only(model, block, keep)
        try:
            with torch.no_grad():
                out.append(model(**inputs).logits[0].double().softmax(-1))
        finally:
            handle.remove()
    return torch.stack(out)


def test_dropped_patches_are_as_if_cut_out_of_the_sequence_cls(vit, scenes):
    examples, maps = scenes
    first = next(m for n, m in vit.model.named_modules() if n.endswith(".0") and type(m).__name__ == "ViTLayer")
    for example, exp in zip(examples[:2], maps):
        row = record(perturbation(vit.model, exp, example, Perturbation("token", "drop", "positive")))
        order = exp.scores["pixel_values"][0].argsort(descending=True, stable=True)
        counts = [64 * i // 10 for i in range(10)]
        expected = literal_drop(vit.model, first, example.reading.inputs, order, counts, 1)[:, row.predicted]
        torch.testing.assert_close(torch.tensor(row.curves["probability"]).double(), expected, atol=1e-5, rtol=0)


def test_dropped_patches_are_left_out_of_a_mean_over_tokens():
    """DINOv2's head reads the CLS token and the mean of the patches."""
    config = Dinov2Config(hidden_size=24, num_hidden_layers=2, num_attention_heads=3, image_size=16, patch_size=4)
    model = strong(Dinov2ForImageClassification(config))
    inputs = {"pixel_values": noise(1, 3, 16, 16)}
    exp = regard.explain(model, inputs)
    setting = Perturbation("token", "drop", steps=(0.25, 0.5, 0.75), auc=(0, 0.75))
    row = record(perturbation(model, exp, Example("x", Reading(inputs)), setting))
    order = exp.scores["pixel_values"][0].argsort(descending=True, stable=True)
    first = next(m for n, m in model.named_modules() if n.endswith("layer.0"))
    expected = literal_drop(model, first, inputs, order, [0, 4, 8, 12], 1)[:, row.predicted]
    torch.testing.assert_close(torch.tensor(row.curves["probability"]).double(), expected, atol=1e-5, rtol=0)
    assert max(row.curves["probability"]) - min(row.curves["probability"]) > 1e-3  # the patches matter here


def test_filled_patches_agree_with_a_loop(vit, scenes):
    examples, maps = scenes
    row = record(
        perturbation(vit.model, maps[0], examples[0], Perturbation("token", "mean", steps=(0.25, 0.5), auc=(0, 0.5)))
    )
    x = examples[0].reading.inputs["pixel_values"]
    by = maps[0].scores["pixel_values"][0].argsort(descending=True).tolist()
    for count, p in zip((0, 16, 32), row.curves["probability"]):
        changed = x.clone()
        for patch in by[:count]:
            i, j = 8 * (patch // 8), 8 * (patch % 8)
            changed[0, :, i : i + 8, j : j + 8] = x[0].mean((1, 2))[:, None, None]
        assert p == pytest.approx(probability(vit.model, {"pixel_values": changed}, row.predicted), abs=2e-5)


class Pooled(nn.Module):
    """Patches, one attention, and a mean over all tokens at the end: no CLS token."""

    def __init__(self, pool):
        super().__init__()
        self.patch, self.qkv, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 24), nn.Linear(8, 3)
        self.pool = pool

    def forward(self, pixel_values):
        x = self.patch(pixel_values).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(x).chunk(3, -1)
        x = x + nn.functional.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        if self.pool == "max":
            return self.head(x.amax(1))
        x = x.mean(1) if self.pool == "mean" else nn.functional.adaptive_avg_pool1d(x.transpose(1, 2), 1).flatten(1)
        return self.head(x)


@pytest.mark.parametrize("pool", ["mean", "adaptive"])
def test_both_ways_to_take_a_mean(pool):
    model = strong(Pooled(pool))
    x = noise(1, 3, 16, 16)
    exp = regard.explain(model, {"pixel_values": x}, method="gradient")
    setting = Perturbation("token", "drop", steps=(0.5,), auc=(0, 0.5))
    row = record(perturbation(model, exp, Example("x", Reading({"pixel_values": x})), setting))
    order = exp.scores["pixel_values"][0].argsort(descending=True)
    with torch.no_grad():
        tokens = model.patch(x).flatten(2).transpose(1, 2)[:, sorted(order[8:].tolist())]
        q, k, v = model.qkv(tokens).chunk(3, -1)
        tokens = tokens + nn.functional.scaled_dot_product_attention(q, k, v)
        expected = model.head(tokens.mean(1)).softmax(-1)[0, row.predicted]
    assert row.curves["probability"][1] == pytest.approx(float(expected), abs=1e-5)


def test_patches_that_cannot_be_left_out_are_refused():
    """Pooled by another operation, or merged on their way."""
    from transformers import SwinConfig, SwinForImageClassification

    config = SwinConfig(image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4)
    setting = Perturbation("token", "drop", steps=(0.5,), auc=(0, 0.5))
    for model, size in ((strong(Pooled("max")), 16), (strong(SwinForImageClassification(config)), 32)):
        inputs = {"pixel_values": noise(1, 3, size, size)}
        exp = regard.explain(model, inputs, method="gradient")
        with pytest.raises(Misuse, match="still reach this model's output"):
            perturbation(model, exp, Example("x", Reading(inputs)), setting)


@pytest.mark.parametrize("fill", ["drop", "mask"])
@pytest.mark.parametrize("order", ["positive", "negative"])
def test_words_agree_with_a_loop_over_single_texts(bert, fill, order):
    for number, sentence in enumerate(zoo.sentences()[:2]):
        example = examples_of(bert.read([sentence.text]), names=[str(number)])[0]
        exp = bert.explain(sentence.text)
        setting = Perturbation("word", fill, order, token=4 if fill == "mask" else None)
        row = record(perturbation(bert.model, exp, example, setting, seed=3))
        text = example.raw("input_ids")
        groups = groups_of(text)
        words = [w.score for w in exp.words[0]]
        assert [sum(exp.scores["input_ids"][0, g].tolist()) for g in groups] == pytest.approx(words, abs=1e-6)
        ids = example.reading.inputs["input_ids"][0].tolist()
        taken_before: set[int] = set()
        for step, p in zip(range(10), row.curves["probability"]):
            # every word outside may not be less relevant than one inside
            count = len(words) * step // 10
            by = order_of(torch.tensor(words), order, tie_seed(3, str(number)))[:count].tolist()
            away = {t for w in by for t in groups[w]}
            assert taken_before <= away
            taken_before = away
            if fill == "drop":
                new = [v for i, v in enumerate(ids) if i not in away]
            else:
                new = [4 if i in away else v for i, v in enumerate(ids)]
            assert p == pytest.approx(
                probability(bert.model, {"input_ids": torch.tensor([new])}, row.predicted), abs=1e-5
            )


def test_padding_never_competes_with_words(bert):
    """The trap: with padding among the units, a negative test takes no real word until far into the curve."""
    short = zoo.sentences()[0].text
    alone = examples_of(bert.read([short]), names=["x"])[0]
    n = alone.reading.inputs["input_ids"].shape[1]
    batch = bert.read([short])
    padded = {
        "input_ids": nn.functional.pad(batch.inputs["input_ids"], (0, 40)),
        "token_type_ids": nn.functional.pad(batch.inputs["token_type_ids"], (0, 40)),
        "attention_mask": nn.functional.pad(batch.inputs["attention_mask"], (0, 40)),
    }
    special = nn.functional.pad(batch.special["input_ids"], (0, 40), value=True)
    long = Example("x", Reading(padded, {}, {"input_ids": special}))
    setting = Perturbation("token", "drop", "negative")
    rows = []
    for example in (alone, long):
        exp = regard.explain(bert.model, example.reading.inputs)
        rows.append(record(perturbation(bert.model, exp, example, setting)))
    assert rows[0].curves["probability"] == pytest.approx(rows[1].curves["probability"], abs=1e-5)
    seen = []
    handle = bert.model.register_forward_pre_hook(
        lambda m, a, kw: seen.extend(kw["attention_mask"].sum(1).tolist()), with_kwargs=True
    )
    try:
        perturbation(bert.model, regard.explain(bert.model, padded), long, setting)
    finally:
        handle.remove()
    assert seen[-10:] == [n - counted(s / 10, n - 2) for s in range(10)]  # CLS and SEP stay, each step takes real words


def test_special_tokens_are_known_from_the_config_without_a_reader():
    """Ids alone: what the config names as special is never taken."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
                        bos_token_id=2, eos_token_id=3, pad_token_id=0)  # fmt: skip
    model = strong(BertForSequenceClassification(config))
    inputs = {"input_ids": torch.tensor([[2, 9, 8, 7, 3]]), "attention_mask": torch.ones(1, 5, dtype=torch.long)}
    exp = regard.explain(model, inputs)
    row = record(
        perturbation(model, exp, Example("x", Reading(inputs)), Perturbation("token", "drop", steps=(1.0,), auc=(0, 1)))
    )
    assert row.curves["probability"][1] == pytest.approx(
        probability(model, {"input_ids": torch.tensor([[2, 3]])}, row.predicted), abs=1e-6
    )


def test_area_has_the_end_points_that_its_name_says():
    """One code base takes x up to 0.9, another up to 1 with a forced 0: other numbers, other names."""
    curve = noise(10, seed=5).double().abs()
    x = [i / 10 for i in range(10)]

    def area(x, y):
        return sum((b - a) * (c + d) / 2 for a, b, c, d in zip(x, x[1:], y, y[1:]))

    plain, forced = Perturbation(), Perturbation(auc=(0.0, 1.0), variant="zero-at-one")
    assert auc(plain, curve) == pytest.approx(area(x, curve.tolist()))
    assert auc(forced, curve) == pytest.approx(area([*x, 1.0], [*curve.tolist(), 0.0]))
    inner = Perturbation(auc=(0.2, 0.5))
    assert auc(inner, curve) == pytest.approx(area(x[2:6], curve.tolist()[2:6]))
    assert plain.name == "perturbation/pixel-black/positive/predicted/steps=0.1..0.9/auc=[0,0.9]"
    assert forced.name == "perturbation/pixel-black/positive/predicted/steps=0.1..0.9/auc=[0,1]/zero-at-one"
    with pytest.raises(Misuse, match="end points"):
        Perturbation(auc=(0.0, 1.0))


def test_names_tell_all_choices_apart():
    names = {
        s.name
        for s in (
            Perturbation(), Perturbation(order="negative"), Perturbation(explained="true"), Perturbation(fill="mean"),
            Perturbation("token", "drop"), Perturbation("word", "drop"), Perturbation(fill="blur"),
            Perturbation(fill="blur", sigma=3.0), Perturbation("word", "mask", token=4), Perturbation("word", "mask", token=5),
            Perturbation(steps=(0.3, 0.6, 0.9)), Perturbation(auc=(0, 0.5)), deletion(), insertion(), comprehensiveness(),
            sufficiency(), Perturbation(stream="pixel_values"),
        )
    }  # fmt: skip
    assert len(names) == 17


def test_comprehensiveness_and_sufficiency_are_settings(bert):
    sentence = zoo.sentences()[1].text
    example, exp = examples_of(bert.read([sentence]))[0], bert.explain(sentence)
    shares = (0.2, 0.5)
    groups = groups_of(example.raw("input_ids"))
    words = torch.tensor([w.score for w in exp.words[0]])
    assert len(set(words.tolist())) == len(words)
    by, ids = words.argsort(descending=True).tolist(), example.reading.inputs["input_ids"][0].tolist()
    full = None
    for setting, keep_top in ((comprehensiveness(shares=shares), False), (sufficiency(shares=shares), True)):
        row = record(perturbation(bert.model, exp, example, setting))
        full = probability(bert.model, example.reading.inputs, row.predicted)
        drops = []
        for share in shares:
            # of sufficiency, ⌊(1 − share) n⌋ words go
            top = by[: len(by) - counted(1 - share, len(by))] if keep_top else by[: counted(share, len(by))]
            away = {t for w, g in enumerate(groups) for t in g if (w in top) != keep_top}
            new = torch.tensor([[v for i, v in enumerate(ids) if i not in away]])
            drops.append(full - probability(bert.model, {"input_ids": new}, row.predicted))
        assert row.values["aopc"] == pytest.approx(sum(drops) / 2, abs=1e-5)


def test_equal_scores_are_in_a_drawn_order_that_is_the_same_for_every_method():
    flat = torch.zeros(50)
    a = order_of(flat, "positive", 7)
    assert a.tolist() == order_of(flat, "positive", 7).tolist() != list(range(50))
    assert a.tolist() != order_of(flat, "positive", 8).tolist()
    assert sorted(a.tolist()) == list(range(50))
    two = torch.tensor([0.0, 1.0] * 25)
    assert all(i % 2 for i in order_of(two, "positive", 7)[:25].tolist())
    assert not any(i % 2 for i in order_of(two, "negative", 7)[:25].tolist())


def test_steps_run_as_batches_without_gradients_within_the_budget(vit, scenes):
    examples, maps = scenes
    sizes, graphs = [], []

    def see(module, args, kwargs, out):
        sizes.append(len(out.logits))
        graphs.append(out.logits.requires_grad)

    handle = vit.model.register_forward_hook(see, with_kwargs=True)
    state = torch.get_rng_state()
    try:
        whole = record(perturbation(vit.model, maps[0], examples[0], Perturbation()))
        assert sizes == [1, 10]  # one to know what a copy takes
        assert not any(graphs)
        one_by_one = record(perturbation(vit.model, maps[0], examples[0], Perturbation(), memory_budget=1))
        assert sizes[2:] == [1] * 11
    finally:
        handle.remove()
    assert whole.curves["probability"] == pytest.approx(one_by_one.curves["probability"], abs=1e-5)
    assert torch.equal(state, torch.get_rng_state())


def test_right_and_wrong_from_the_start_stay_apart(vit, scenes):
    examples, maps = scenes
    row = record(perturbation(vit.model, maps[0], examples[0], Perturbation()))
    assert row.row.right is (row.row.label == row.predicted)
    wrong = Example("x", examples[0].reading, label=(row.predicted + 1) % 8)
    row = record(perturbation(vit.model, maps[0], wrong, Perturbation()))
    assert row.row.right is False
    assert row.curves["kept"][0] == 1.0
    assert row.curves["accuracy"][0] == 0.0


def test_misuse_is_said_in_a_sentence(vit, bert, scenes):
    examples, maps = scenes
    text = examples_of(bert.read(["a good film"]))[0]
    with pytest.raises(Misuse, match="no pixels"):
        perturbation(bert.model, bert.explain("a good film"), text, Perturbation())
    with pytest.raises(Misuse, match="holds no words"):
        perturbation(vit.model, maps[0], examples[0], Perturbation("word", "drop"))
    with pytest.raises(Misuse, match="needs the id of the mask token"):
        Perturbation("word", "mask")
    with pytest.raises(Misuse, match="no label"):
        perturbation(vit.model, maps[0], Example("x", examples[0].reading), Perturbation(explained="true"))
    bad = sample_of(maps[0], 0)
    bad.scores = {**bad.scores, "pixel_values": bad.scores["pixel_values"] * math.nan}
    with pytest.raises(Misuse, match="NaN"):
        perturbation(vit.model, bad, examples[0], Perturbation())
