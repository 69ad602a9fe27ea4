"""Models of sound: what is heard, from when to when each token stands, and how it is drawn."""

from __future__ import annotations

import json
import pickle
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

import transformers as T

import regard
from regard import Explanation, Generation, Target
from regard.cli import commands as cli
from regard.errors import InputError, Misuse, ModelError
from regard.explanation.raw_inputs import Sound
from regard.models.sounds import longest, read_sound
from regard.reader import Reader
from regard.report.explanation.html import page
from regard.report.sound import spectrogram, ticks, waveform
from regard.report.view import SoundView, view_of
from support.tiny import strong
from support.writers import tokenizer

torch.set_num_threads(1)

RATE = 16000
SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_labels": 3}
CONV = {
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "conv_dim": (8,) * 7,
    "classifier_proj_size": 8,
}


def tone(seconds: float = 0.5, at: float = 0.25, pitch: float = 440.0, rate: int = RATE) -> np.ndarray:
    """A short tone in silence."""
    time = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * pitch * time) * np.exp(-(((time - at) / 0.03) ** 2))).astype(np.float32)


def wav(path: Path, samples: np.ndarray, rate: int = RATE, width: int = 2) -> Path:
    """Write samples (time,) or (time, channels) in -1 to 1 as whole numbers of so many bytes."""
    values = np.atleast_2d(samples.T).T
    if width == 1:
        data = np.rint(values * 127 + 128).astype("u1").tobytes()
    elif width == 3:
        data = np.rint(values * (2**23 - 1)).astype("<i4").view("u1").reshape(-1, 4)[:, :3].tobytes()
    else:
        data = np.rint(values * (2 ** (8 * width - 1) - 1)).astype(f"<i{width}").tobytes()
    with wave.open(str(path), "wb") as file:
        file.setparams((values.shape[1], width, rate, 0, "NONE", ""))
        file.writeframes(data)
    return path


def wav2vec2():
    return T.Wav2Vec2ForSequenceClassification(T.Wav2Vec2Config(**SMALL, **CONV)), T.Wav2Vec2FeatureExtractor()


def hubert():
    return T.HubertForSequenceClassification(T.HubertConfig(**SMALL, **CONV)), T.Wav2Vec2FeatureExtractor()


def ast():
    mel = {"max_length": 128, "num_mel_bins": 64}
    return T.ASTForAudioClassification(T.ASTConfig(**SMALL, **mel)), T.ASTFeatureExtractor(**mel)


def whisper_config():
    layers = {f"{s}_{w}": n for s in ("encoder", "decoder") for w, n in (("layers", 1), ("attention_heads", 2))}
    width = {"d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_target_positions": 24}
    ids = {"vocab_size": 400, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0}
    more = {"max_source_positions": 50, "suppress_tokens": None, "begin_suppress_tokens": None, "num_labels": 3}
    return T.WhisperConfig(**layers, **width, **ids, **more)


def second():
    """Whisper's extractor, for a model that hears one second."""
    return T.WhisperFeatureExtractor(chunk_length=1)


def whisper_classifier():
    return T.WhisperForAudioClassification(whisper_config()), second()


def whisper():
    return T.WhisperForConditionalGeneration(whisper_config()), T.WhisperProcessor(second(), tokenizer())


CLASSIFIERS = (wav2vec2, hubert, ast, whisper_classifier)


def reader(make) -> Reader:
    torch.manual_seed(0)
    model, processor = make()
    return regard.load(strong(model), processor=processor)


# ---------------------------------------------------------------- what is heard


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 2])
def test_wav_files_of_all_widths(tmp_path, width, channels):
    given = tone()
    path = wav(tmp_path / "a.wav", np.stack([given] * channels, 1), width=width)
    heard, name = read_sound(path, RATE)
    assert name == "a.wav"
    np.testing.assert_allclose(heard.numpy(), given, atol=2.0 ** (2 - 8 * width) + 1e-6)


@pytest.mark.parametrize(
    "raw",
    [
        tone(),
        torch.from_numpy(tone()),
        tone().tolist(),
        (tone(), RATE),
        {"array": tone(), "sampling_rate": RATE, "path": None},
        np.stack([tone(), tone()]),
        np.stack([tone(), tone()], 1),
        np.rint(tone() * 32768).astype(np.int16),
    ],
)
def test_arrays_of_many_forms(raw):
    np.testing.assert_allclose(read_sound(raw, RATE)[0].numpy(), tone(), atol=2e-5)


@pytest.mark.parametrize("rate", [8000, 22050, 44100])
def test_other_rates_are_changed_to_the_model_s(rate):
    pytest.importorskip("scipy")
    heard, _ = read_sound((tone(rate=rate), rate), RATE)
    np.testing.assert_allclose(heard.numpy(), tone(), atol=5e-3)


def test_a_file_of_floats_is_read_by_scipy(tmp_path):
    wavfile = pytest.importorskip("scipy.io.wavfile")
    wavfile.write(tmp_path / "f.wav", RATE, tone())
    np.testing.assert_array_equal(read_sound(tmp_path / "f.wav", RATE)[0].numpy(), tone())


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("none.wav", "no such sound: none.wav"),
        (".", "is a folder"),
        ("text.wav", "is not a WAV file that can be read"),
        ("empty.wav", "is not a WAV file that can be read"),
        ("cut.wav", "is not a WAV file that can be read"),
        ("silent.wav", "has shape 0 x 1"),
        (np.zeros(0), "has shape 0"),
        (np.zeros((20, 20, 2)), "has shape 20 x 20 x 2; give samples"),
        (np.zeros((900, 800)), "has shape 900 x 800; give samples"),
        (np.array(3.0), "has shape a single number"),
        (np.array([1.0, np.nan]), "NaN or infinity"),
        (("a", "b"), "the rate of sound 0 must be a whole number"),
        ((tone(), 16e3), "the rate of sound 0 must be a whole number"),
        ((tone(), -1), "the rate of sound 0 must be a whole number"),
        (object(), "is a object, which holds no numbers; give a path of a WAV file"),
        (None, "holds no numbers"),
        (([[1, 2], [3]], RATE), "cannot be read as an array"),
    ],
)
def test_what_is_no_sound_is_said_in_one_sentence(raw, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.wav").write_text("these are words")
    Path("empty.wav").write_bytes(b"")
    Path("cut.wav").write_bytes(wav(tmp_path / "whole.wav", tone()).read_bytes()[:30])
    wav(tmp_path / "silent.wav", np.zeros((0, 1)))
    with pytest.raises(InputError, match=said) as raised:
        reader(wav2vec2).read(raw)
    assert "\n" not in str(raised.value)


def test_without_scipy_another_rate_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.signal", None)
    with pytest.raises(ModelError, match=r"has 8000 samples a second and the model hears 16000: SciPy changes that"):
        read_sound((tone(rate=8000), 8000), RATE)


def test_a_sound_that_is_too_long_is_cut_only_when_told():
    for make, limit in ((whisper_classifier, 1.0), (ast, 1.28)):
        r = reader(make)
        assert longest(getattr(r.processor, "feature_extractor", r.processor)) == pytest.approx(limit)
        with pytest.raises(
            InputError, match=rf"lasts 2.0 s, and \w+ hears {limit:g} s at a time; cut it, or pass truncate"
        ):
            r.explain(tone(2.0))
        exp = r.explain(tone(2.0), truncate=True)
        assert any("only its beginning was heard" in note for note in exp.receipt.notes)
        assert exp.inputs[r.stream][0].seconds == pytest.approx(limit, abs=0.01)


def test_sounds_of_one_length_are_a_batch():
    r = reader(wav2vec2)
    both = r.explain([tone(), tone(at=0.1)])
    alone = r.explain(tone(at=0.1))
    torch.testing.assert_close(both.scores["input_values"][1:], alone.scores["input_values"], rtol=1e-4, atol=1e-7)
    with pytest.raises(InputError, match=r"differ in length \(0.5 s, 0.6 s\); give them one by one"):
        r.explain([tone(), tone(0.6)])


# ---------------------------------------------------------------- maps over time


@pytest.mark.parametrize("make", CLASSIFIERS)
def test_a_map_has_a_score_for_every_moment(make):
    r = reader(make)
    exp = r.explain(tone(), method="input_x_gradient", measure="full")
    assert r.kind == "sound"
    scores = exp.scores[r.stream][0]
    assert exp.receipt.faithful == 0
    assert len(exp.tokens[0]) == len(scores)
    assert exp.tokens[0] == [f"{a:.2f}–{b:.2f} s" for a, b in exp.times()[0]]
    tensors = regard.explain(r.model, dict(r.read(tone()).inputs), method="input_x_gradient")
    assert torch.equal(tensors.scores[r.stream], exp.scores[r.stream])


@pytest.mark.parametrize("make", CLASSIFIERS)
@pytest.mark.parametrize("late", [False, True])
def test_moments_are_where_the_sound_is(make, late):
    """Raw samples (or frames) that are changed at one time change the product of input and gradient at that time alone."""
    r = reader(make)
    given = dict(r.read(tone(0.9)).inputs)
    values = torch.zeros_like(given[r.stream])
    time = 2 if r.stream == "input_features" else 1
    whole = values.shape[time]
    begin, end = (0.7, 0.8) if late else (0.2, 0.3)
    seconds = float(r.read(tone(0.9)).raw[r.stream][0].window)
    a, b = (round(t / seconds * whole) for t in (begin, end))
    values.narrow(time, a, b - a).fill_(1.0)
    exp = regard.explain(r.model, {**given, r.stream: values}, 1, method="input_x_gradient")
    scores = exp.scores[r.stream][0].abs()
    times = r.read(tone(0.9)).raw[r.stream][0].times(len(scores))
    where = sum(float(s) * (x + y) / 2 for s, (x, y) in zip(scores, times, strict=True)) / float(scores.sum())
    assert begin - 0.08 < where < end + 0.08


class Own(torch.nn.Module):
    """As a course writes it: pieces of 25 ms, a Transformer, the mean of what comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.cut, self.head = torch.nn.Linear(400, 16), torch.nn.Linear(16, 4)
        self.places = torch.nn.Parameter(torch.randn(1, 40, 16))
        layer = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.body = torch.nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, waveform):
        pieces = self.cut(waveform.unflatten(1, (-1, 400)))
        return self.head(self.body(pieces + self.places[:, : pieces.shape[1]]).mean(1))


class Bank(torch.nn.Module):
    """As an audio library writes it: a filter bank of its own, a class token, an attention by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.bank = torch.nn.Conv1d(1, 16, 320, 320)
        self.cls = torch.nn.Parameter(torch.randn(1, 1, 16))
        self.qkv, self.out = torch.nn.Linear(16, 48), torch.nn.Linear(16, 4)

    def forward(self, audio):
        x = self.bank(audio[:, None]).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1)
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.out((x + (q @ k.transpose(1, 2) / 4).softmax(-1) @ v)[:, 0])


@pytest.mark.parametrize(("make", "stream", "count"), [(Own, "waveform", 20), (Bank, "audio", 25)])
def test_models_written_by_hand(make, stream, count):
    torch.manual_seed(0)
    r = regard.load(strong(make()), processor=T.Wav2Vec2FeatureExtractor())
    exp = r.explain(tone())
    assert (r.kind, r.stream) == ("sound", stream)
    assert exp.scores[stream].shape == (1, count)
    assert exp.times()[0][-1] == pytest.approx((0.5 - 0.5 / count, 0.5))
    assert isinstance(view_of(exp).panels[0], SoundView)


def test_steps_are_the_model_s_own_where_it_says_them():
    samples = torch.zeros(16000)
    assert Sound(samples, RATE, 1.0, 0.02).times(49)[48] == pytest.approx((0.96, 0.98))
    assert Sound(samples, RATE, 1.0, 0.02).times(24)[23] == pytest.approx((23 / 24, 1.0))  # merged: equal parts
    assert Sound(samples, RATE, 1.28, 0.1, bands=2).times(24)[5] == pytest.approx((0.2, 0.3))


def test_words_and_pictures_are_not_looked_for_in_a_sound():
    exp = reader(wav2vec2).explain(tone())
    assert exp.words is None
    with pytest.raises(Misuse, match="no text is known"):
        exp.grouped("word")
    with pytest.raises(Misuse, match="no stream is a picture"):
        exp.image_map()
    text = regard.load("zoo/bert-sentiment").explain("a film .")
    with pytest.raises(Misuse, match="no sound is known"):
        text.times()


# ---------------------------------------------------------------- writing


def test_whisper_writes_and_each_token_rests_on_moments():
    r = reader(whisper)
    g = r.explain_generation(tone(), 3, min_new_tokens=3)
    assert len(g) == 3
    assert g.stream == "decoder_input_ids"
    given = dict(r.read(tone()).inputs)
    begun = g.texts[g.stream].tokens[: g.start]
    ids = torch.tensor([r.processor.tokenizer.convert_tokens_to_ids(begun) + g.ids])
    for i, id in enumerate(g.ids):
        alone = regard.explain(r.model, given | {"decoder_input_ids": ids}, Target.next_token(id, g.start + i - 1))
        for stream, scores in g[i].scores.items():
            torch.testing.assert_close(scores, alone.scores[stream], rtol=1e-5, atol=1e-8)
        assert torch.equal(g[i].receipt.predicted, g[i].receipt.explained)
        assert g[i].receipt.faithful == 0
    assert g.of("input_features").shape == (3, 50)
    back = pickle.loads(pickle.dumps(g))
    assert isinstance(back, Generation)
    assert back.to_dict() == g.to_dict()


def test_a_language_that_generate_puts_first_is_no_word_of_the_model_s():
    r = reader(whisper)
    plain = r.explain_generation(tone(), 3, min_new_tokens=3)
    forced = r.processor.tokenizer.convert_tokens_to_ids(["<|turn|>", "<|end|>"])
    r.model.generation_config.lang_to_id = {"<|turn|>": forced[0]}
    r.model.generation_config.task_to_id = {"transcribe": forced[1]}
    r.model.generation_config.is_multilingual = True
    r.model.generation_config.no_timestamps_token_id = r.processor.tokenizer.convert_tokens_to_ids("<image>")
    g = r.explain_generation(tone(), 3, min_new_tokens=3, language="<|turn|>", task="transcribe")
    assert plain.start == 1
    assert g.texts[g.stream].tokens[: g.start] == ["<s>", "<|turn|>", "<|end|>", "<image>"]
    assert len(g) == 3
    assert all(torch.equal(e.receipt.predicted, e.receipt.explained) for e in g)


def test_what_does_not_write_says_so():
    with pytest.raises(ModelError, match="ForSequenceClassification cannot write: it has no generate"):
        reader(wav2vec2).explain_generation(tone(), 2)
    model, processor = whisper()
    with pytest.raises(ModelError, match="give its processor, with a tokenizer"):
        regard.load(model.eval(), processor=processor.feature_extractor).explain_generation(tone(), 2)


# ---------------------------------------------------------------- folders, files, pages


@pytest.mark.parametrize("make", [wav2vec2, ast, whisper])
def test_a_folder_loads_as_what_it_hears(make, tmp_path):
    model, processor = make()
    strong(model).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, given = regard.load(tmp_path), regard.load(model, processor=processor)
    assert loaded.kind == "sound"
    target = Target.logit(5, position=0) if make is whisper else None
    a, b = loaded.explain(tone(), target), given.explain(tone(), target)
    assert torch.equal(a.scores[loaded.stream], b.scores[given.stream])
    if make is whisper:
        assert loaded.explain_generation(tone(), 2).ids == given.explain_generation(tone(), 2).ids


def test_a_pipeline_of_sound():
    model, extractor = wav2vec2()
    held = T.pipeline("audio-classification", model=strong(model), feature_extractor=extractor, device="cpu")
    r = regard.load(held)
    assert r.kind == "sound"
    assert r.explain(tone()).scores["input_values"].shape == (1, 24)


def test_a_sound_is_saved_and_shown(tmp_path):
    exp = reader(whisper_classifier).explain((tone(), RATE))
    exp.save(tmp_path / "a")
    back = Explanation.load(tmp_path / "a")
    assert torch.equal(back.inputs["input_features"][0].samples, exp.inputs["input_features"][0].samples)
    assert back.tokens == exp.tokens
    made = json.loads(exp.to_json())["inputs"]["input_features"][0]
    assert (made["seconds"], made["rate"], len(made["times"])) == (0.5, RATE, 50)
    assert page([back]) == page([exp])
    assert "sound 0" in page([exp])
    exp.plot(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
    assert len(exp._repr_html_()) > 1000


def test_what_lies_in_the_silence_after_a_sound_is_shown():
    exp = reader(whisper_classifier).explain(tone(0.5))
    stream = "input_features"
    panel = view_of(exp).panels[0]
    assert isinstance(panel, SoundView)
    assert panel.picture.box[2] == panel.picture.pixels.shape[1]  # all of the second that was heard
    exp.scores[stream] = torch.arange(50.0)[None].lt(25).float()
    cut = view_of(exp).panels[0]
    assert cut.picture.box[2] == 2 * cut.picture.pixels.shape[1]  # half of it lies beyond the picture


def test_pictures_of_sounds():
    drawn = waveform(tone(1.0, at=0.5).astype(np.float64))
    dark = (drawn < 200).sum(0)
    assert dark[600] > 20 * dark[100]
    assert dark.min() >= 1  # silence is a line
    low, high = (spectrogram(tone(0.5, pitch=p).astype(np.float64), RATE) for p in (300.0, 3000.0))
    assert np.unravel_index(low.argmin(), low.shape)[0] > np.unravel_index(high.argmin(), high.shape)[0] + 40
    assert ticks(1.0) == pytest.approx([i / 10 for i in range(11)])
    assert ticks(30.0)[1] == 5.0


def test_bands_of_pitch_are_drawn_low_to_high():
    exp = reader(ast).explain(tone())
    count = exp.scores["input_values"].shape[1]
    sound = exp.inputs["input_values"][0]
    exp.scores["input_values"] = torch.zeros(1, count)
    exp.scores["input_values"][0, 0] = 1.0  # the first moment's lowest band
    cells = view_of(exp).panels[0].cells
    assert cells.shape == (sound.bands, count // sound.bands)
    assert cells[-1, 0] == 1.0


def test_sound_on_the_command_line(tmp_path, monkeypatch, capfd):
    model, extractor = wav2vec2()
    strong(model).save_pretrained(tmp_path / "model")
    extractor.save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    wav(tmp_path / "bark.wav", tone())

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main([*arguments, "--out", "out", "-m", "model"])
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    code, out, err = run("explain", "bark.wav")
    assert code == 0, err
    assert "strongest moments" in out
    assert {p.suffix for p in Path("out").iterdir()} == {".html", ".png"}
    for arguments, said in (
        (("explain", "none.wav"), "no such file: none.wav"),
        (("explain", "-"), "sound is not read from stdin; give the path of a WAV file"),
        (("explain", "bark.wav", "--text", "a"), "reads sound only"),
    ):
        code, out, err = run(*arguments)
        assert (code, len(err.strip().splitlines())) == (2, 1)
        assert said in err
