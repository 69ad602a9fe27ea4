"""Samples that read one another: found by the graph or by gradients, explained one by one, and said on the receipt."""

import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import regard
from regard import Target
from regard.recording import independence, record
from regard.recording.independence import apart
from regard.recording.row_gradient import by_rows, saved_elsewhere
from support.samples import APART, MIXED, Encoder, Routed
from support.tiny import ids, noise, strong
from support.tiny_clip import clip, inputs


def own_gradient_times_input(model, x, c):
    """The literal answer: of each sample's target, the gradient at that sample."""
    leaf = x.clone().requires_grad_()
    y = model(leaf)[:, c]
    grads = [torch.autograd.grad(y[i], leaf, retain_graph=True)[0][i] for i in range(len(x))]
    return (torch.stack(grads) * x).sum(-1)


@pytest.mark.parametrize("how", MIXED)
def test_samples_that_read_one_another_are_told_and_never_mixed(how):
    model, x = strong(Encoder(MIXED[how])), noise(3, 5, 16)
    found = regard.explain(model, x, 2, ["input_x_gradient", "gae"])
    torch.testing.assert_close(found[0].scores["input"], own_gradient_times_input(model, x, 2), rtol=1e-4, atol=1e-5)
    for exp in found:
        assert any("samples are not independent here: the target of one reads others" in n for n in exp.receipt.notes)
        assert not exp.receipt.complete


@pytest.mark.parametrize("order", [[1, 2, 0], [2, 1, 0]])
def test_samples_in_another_order_are_shown_where_they_are_read(order):
    model, x = strong(Encoder(lambda m, z: m.fc(z[:, 0][order]))), noise(3, 5, 16)
    found = regard.explain(model, x, 1, "input_x_gradient")
    plain = strong(Encoder(lambda m, z: m.fc(z[:, 0])))
    torch.testing.assert_close(
        found.scores["input"], own_gradient_times_input(plain, x, 1)[order], rtol=1e-4, atol=1e-6
    )
    assert any("its row of a map shows the sample that it reads" in n for n in found.receipt.notes)


def test_statistics_of_a_batch_between_blocks_are_told():
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(
                nn.TransformerEncoderLayer(16, 2, 24, batch_first=True, dropout=0.0) for _ in range(2)
            )
            self.norm, self.fc = nn.BatchNorm1d(16), nn.Linear(16, 3)

        def forward(self, x):
            for layer in self.layers:
                x = self.norm(layer(x).transpose(1, 2)).transpose(1, 2)
            return self.fc(x[:, 0])

    model, x = strong(Normed()), noise(3, 5, 16)
    assert not any("independent" in n for n in regard.explain(model, x, 1).receipt.notes)
    found = regard.explain(model.train(), x, 1, "input_x_gradient", training=True)
    assert any("not independent" in n for n in found.receipt.notes)
    torch.testing.assert_close(found.scores["input"], own_gradient_times_input(model, x, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("text", [0, 1])
def test_similarities_of_all_pictures_and_texts_are_those_of_pairs(text):
    model, both = clip(), inputs(2, 2)
    exp = regard.explain(model, both, Target.logit(text, output="logits_per_image"))
    assert any("shows the sample that it reads" in n for n in exp.receipt.notes)
    for i in range(2):
        pair = {"input_ids": both["input_ids"][text : text + 1], "pixel_values": both["pixel_values"][i : i + 1]}
        one = regard.explain(model, pair, Target.logit(0, output="logits_per_image"))
        for name, expected in one.scores.items():
            torch.testing.assert_close(exp.scores[name][i], expected[0], rtol=1e-4, atol=1e-6)


def test_a_probability_among_the_texts_of_a_batch_reads_them_all():
    found = regard.explain(clip(), inputs(2, 2), lambda out: out.logits_per_image.softmax(-1)[:, 0])
    assert any("reads others as well" in n for n in found.receipt.notes)


# -- independent ones -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", APART)
def test_models_that_keep_samples_apart_are_proved_by_their_graph(name):
    model, x = strong(APART[name]), noise(3, 5, 16)
    recording = record(model, x)
    with torch.enable_grad():
        y = Target.logit(1).value(recording.output, recording.inputs).y
    assert apart(y)
    found = regard.explain(model, x, 1)
    assert found.receipt.passes == 2
    assert not any("independent" in n for n in found.receipt.notes)


def test_what_the_graph_cannot_prove_the_gradients_do():
    model, x = strong(Routed()), noise(3, 5, 16)
    found = regard.explain(model, x, 1, "input_x_gradient")
    assert not any("independent" in n for n in found.receipt.notes)
    torch.testing.assert_close(found.scores["input"], own_gradient_times_input(model, x, 1), rtol=1e-4, atol=1e-6)
    assert found.receipt.passes > 2


def own_function(name):
    """Less the mean over the samples, as a function of the model's own with a name that something else has."""

    def forward(ctx, x):
        return x - x.mean(0, keepdim=True)

    def backward(ctx, g):
        return g - g.mean(0, keepdim=True)

    body = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type(name, (torch.autograd.Function,), body)


@pytest.mark.parametrize("name", ["Silu", "Clone", "Linear", "PatchEmbedding", "Scaled", "Instead", "FusedAttention"])
@pytest.mark.parametrize("method", ["gae", "input_x_gradient", "attnlrp"])
def test_a_function_of_the_model_s_own_is_known_by_no_name(name, method):
    mixing = own_function(name)
    model, x = strong(Encoder(lambda m, z: m.fc(mixing.apply(z)[:, 0]))), noise(3, 5, 16)
    found = regard.explain(model, x, 1, method)
    assert any("samples are not independent here" in n for n in found.receipt.notes)


def test_token_ids_are_samples_too():
    transformers = pytest.importorskip("transformers")
    small = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "vocab_size": 60,
    }
    model = strong(transformers.BertForSequenceClassification(transformers.BertConfig(num_labels=3, **small)))

    class Less(nn.Module):
        def forward(self, input_ids):
            words = model.get_input_embeddings()(input_ids)
            return model(inputs_embeds=words - words.mean(0)).logits

    given = {"input_ids": ids(3, 6)}
    assert not any("independent" in n for n in regard.explain(model, given).receipt.notes)
    assert any("not independent" in n for n in regard.explain(Less().eval(), given, 1).receipt.notes)


def halves(z):
    return torch.cat(z.split(z.shape[2] // 2, 2), 0) if z.shape[2] % 2 == 0 else z


STEPS = [
    lambda z: z + z.roll(1, 0),
    lambda z: z - z.mean(0, keepdim=True),
    lambda z: z - z.mean(1, keepdim=True),
    lambda z: z.transpose(0, 1),
    lambda z: z.permute(2, 0, 1),
    lambda z: z.movedim(0, 1).contiguous().view(z.shape),
    lambda z: z.reshape(z.shape[0], -1, 2) if z[0].numel() % 2 == 0 else z,
    lambda z: z.reshape(-1, z.shape[1], z.shape[2] // 2) if z.shape[2] % 2 == 0 else z,
    lambda z: z.reshape(1, -1, z.shape[2]).tanh(),
    lambda z: z.softmax(0),
    lambda z: z.softmax(-1),
    lambda z: z.cumsum(1),
    lambda z: z @ z.mT @ z,
    lambda z: torch.bmm(z, z.mT),
    lambda z: torch.einsum("abc,dbc->ad", z, z)[..., None],
    lambda z: torch.cat([z[1:], z[:1]], 0),
    lambda z: torch.stack([z, -z], 2).flatten(2),
    lambda z: z.unsqueeze(1).expand(-1, 2, -1, -1).flatten(1, 2),
    lambda z: F.layer_norm(z, z.shape[-1:]),
    lambda z: F.layer_norm(z, z.shape[-2:]),
    lambda z: F.pad(z, (1, 1)),
    lambda z: z * z.amax(-1, keepdim=True),
    lambda z: z * z[:1],
    lambda z: z.flip(1),
    lambda z: z[torch.arange(len(z)).flip(0)],
    halves,
]


@pytest.mark.parametrize("seed", range(10))
def test_what_is_called_apart_is_apart(seed):
    """Random chains of operations, checked against the whole Jacobian: no chain that mixes samples is called apart."""
    draw = random.Random(seed)
    proved = 0
    for _ in range(12):
        x = noise(3, 4, 6, seed=draw.randrange(1000)).double().requires_grad_()
        z = x.tanh()
        for step in draw.choices(STEPS, k=draw.randint(1, 4)):
            z = step(z)
        if z.numel() % 3:
            continue
        by_rows = z.reshape(3, -1) if draw.random() < 0.5 else z.flatten().view(-1, 3).T
        y = by_rows.sin().sum(1)
        rows = torch.stack(
            [torch.autograd.grad(y[i], x, retain_graph=True)[0].flatten(1).norm(dim=1) for i in range(3)]
        )
        mixes = bool((rows * (1 - torch.eye(3)) > 1e-9).any())
        assert not (mixes and apart(y))
        proved += apart(y)
    assert 0 < proved < 12


@pytest.mark.skipif(saved_elsewhere(), reason="this torch does not say where what is saved goes")
def test_every_operation_is_looked_at_once_however_many_ways_lead_to_it(monkeypatch):
    looked = []
    rule = independence._rule
    monkeypatch.setattr(independence, "_rule", lambda node, name: looked.append(node) or rule(node, name))
    x = torch.randn(3, 4, 8, requires_grad=True)
    layer = nn.Linear(8, 8)
    y = x
    for _ in range(16):  # each adds what it was given, so that the ways double
        y = y + by_rows(F.linear, (y, layer.weight, layer.bias), {})
    assert apart(y[:, 0, 0])
    assert len(looked) == len({id(n) for n in looked}) < 60
