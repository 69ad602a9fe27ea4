"""A model together with what turns raw pictures or texts into its tensors, and class names into its class numbers."""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from regard.api.explain import explain_found, explain_reading
from regard.baseline import Baseline
from regard.errors import InputError, Misuse, ModelError, TargetError, UnknownName, nearest
from regard.explanation.boxes import Found
from regard.explanation.raw_inputs import Picture, Raw, Reading, Text
from regard.models import default_targets as answers
from regard.models import detectors as detection
from regard.models import embeddings, pairs, sounds
from regard.models import regions as boxes
from regard.models import token_targets as asked
from regard.models import zero_shot as compared
from regard.models.chats import can_write, is_chat
from regard.models.generate import begins_with, begun_text, start_of
from regard.models.geometry import View, from_patches, probe, probe_tiles
from regard.models.pictures import Pixels, read_picture, taking, to_image
from regard.models.texts import check_known, longest, pad_id, read_texts
from regard.models.token_targets import Asking, names_in
from regard.recording.tokens import rasters
from regard.site import Site
from regard.target import Target

Kind = Literal["image", "text", "image-text", "regions-text", "embedding", "sound"]


class Reader:
    """Reads raw pictures, texts or both for one model; made by `regard.load`.

    Attributes:
        model: the model, as it will be explained.
        processor: its image processor (or any callable: PIL image -> tensor (channels, rows, columns)) or tokenizer, or the
            processor that holds both, for a vision-language model; for one of sound what holds its feature extractor.
        labels: class names in index order, empty where the model names none.
        kind: "image", "text", "image-text", "sound", "regions-text" for a model that reads regions of a picture, or
            "embedding" for one that makes vectors of texts (`model` is then an `embeddings.Embedder` around it).
        stream: the keyword that pictures or token ids have in the model's forward.
        encoder: what turns boxes of a picture into the vectors that such a model reads, if anything does.
        notes: what every receipt should say of how the model was loaded.
    """

    def __init__(
        self,
        model: nn.Module,
        processor: Any,
        kind: Kind,
        labels: Sequence[str] = (),
        encoder: boxes.Encoder | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.model = model
        self.processor = processor
        self.kind: Kind = kind
        self.labels = list(labels)
        self.encoder = encoder
        self.notes = list(notes)
        self.stream = _stream(model, kind)
        self._views: dict[tuple[int, int], View] = {}

    def __repr__(self) -> str:
        model = self.model.inner if isinstance(self.model, embeddings.Embedder) else self.model
        return f"Reader({type(model).__name__}, kind={self.kind!r}, {len(self.labels)} labels)"

    @property
    def detects(self) -> bool:
        """Whether the model finds objects in pictures."""
        return self.kind == "image" and detection.can_detect(self.model)

    @property
    def answers(self) -> bool:
        """Whether the model finds the answer to a question in a text; it reads (question, text)."""
        return asked.kind_of(self.model, self.kind) == "span"

    @property
    def wants(self) -> pairs.Wants:
        """What a model of pictures and texts needs of each."""
        return pairs.wants(self.model, self.processor)

    def read(self, raw: Any, *, truncate: bool = False, regions: Any = None) -> Reading:
        """Turn one raw input, or a list of them, into the model's tensors, on its device and in its floating dtype.

        `raw` is, for an image model, a path (str or Path), a PIL image, or a uint8 array or tensor (height, width, 3);
        for a text model, a str, or a chat: a list of messages {"role": ..., "content": ...}; for an embedding model a str, or
        two in a tuple; for a model of sound the path of a WAV file, an array (time,), or (array, rate); for a model of pictures
        and texts (picture, text), one at a time; where it compares the two, as CLIP does, also (picture, [texts]), whose texts
        are its classes; for a vision-language model also ([pictures], prompt), or a prompt alone; for a captioner a picture
        alone. `regions`, for a model that reads regions of a picture: their boxes (regions, 4) as (left, top, right, bottom),
        fractions of the picture, or (boxes, vectors) where the model brings nothing that makes vectors of them. `truncate` lets
        texts and sounds longer than the model takes be cut. A UserWarning says what was cut, and where the processor does
        something to pictures that cannot be undone on the original.

        Raises InputError for a raw input that cannot be read.
        """
        reading, notes = self._read(raw, truncate, regions)
        for note in notes:
            warnings.warn(note, UserWarning, stacklevel=2)
        return reading

    def explain(
        self,
        raw: Any,
        target: Any = None,
        method: Any = "gae",
        *,
        baseline: Any = None,
        site: Any = None,
        truncate: bool = False,
        regions: Any = None,
        threshold: float | None = None,
        against: Any = None,
        token: str | int | None = None,
        **options: Any,
    ) -> Any:
        """Read raw inputs and explain the model's output on them: `regard.explain` with what the reader knows.

        A class may be given by its name (see `label`), also in a list of targets; `against` is another one to tell it from. A
        site and a baseline may be given in words: "block[3]", "blur:5", "mask" (see `Site.parse`, `Baseline.parse`). `regions`
        as in `read`. `options` go to `regard.explain`.

        A detector's objects are its targets: all that it finds in the picture with a probability of at least `threshold`
        (default 0.5), or those of the classes named; a flat list, methods outer, objects inner, the likeliest first.
        Matching models are asked for the match, embedding models how alike two texts are; of several texts beside a picture,
        each by its number or in words, the likeliest is explained by default; a model that answers in words takes
        the answer as its target, its own by default.

        Models that say something of every token take words (asked.py). One that writes is asked for the next token, the
        predicted one by default: target="Paris", against="London". One that fills in masks, for the word at the mask. One that
        tags words, for every word that it tags (a flat list), for those with the tag that `target` names, or for the tag of
        the word (or token number) `token`. One that finds answers, for its best answer, or for the one that `target` spells; it
        reads (question, text). A word of several tokens stands for its first, and a note says so.
        """
        reading, notes = self._read(raw, truncate, regions)
        self._check_text(reading)
        options = options | {"method": method, "baseline": self._baseline(baseline), "site": self._site(site)}
        asking = self._asking(raw, reading)
        more, said = self._asked(raw, target, threshold, reading, against, token, asking)
        options |= more
        found = explain_found(self.model, **options) if "find" in options else explain_reading(self.model, **options)
        every = found if isinstance(found, list) else [found]
        for explanation in every:
            explanation.receipt.notes.extend([*said, *notes])
        if asking is not None and asking.kind in ("next", "mask"):
            names_in(every, asking)
        return found

    def _asked(
        self,
        raw: Any,
        target: Any,
        threshold: float | None,
        reading: Reading,
        against: Any = None,
        token: Any = None,
        asking: Asking | None = None,
    ) -> tuple[dict[str, Any], list[str]]:
        """The target of one call of `explain`, and the reading it is a target of; and what to say of it."""
        several = target if isinstance(target, list) else [target]
        if self.detects and several and all(detection.explains_objects(t) for t in several):
            if against is not None or token is not None:
                raise Misuse("against= and token= are not for objects that a detector finds")
            return {"reading": reading, "find": self._objects(raw, several, threshold, reading)}, []
        if threshold is not None:
            raise Misuse(
                f"a threshold is for objects that a detector finds; {type(self.model).__name__} is asked for none"
            )
        if self.kind == "image-text" and answers.answers_in_words(self.model):
            if not isinstance(target, str | None):
                name = type(self.model).__name__
                raise TargetError(f"{name} answers in words: give one answer as the target, or none for its own")
            full, of_answer = answers.answered(self.model, self.processor.tokenizer, reading, target)
            return {"reading": full, "target": of_answer}, []
        if asking is not None:
            return asked.of_words(asking, reading, target, against, token)
        if token is not None:
            raise Misuse(
                f"token= is for models that say something of every token; {type(self.model).__name__} does not"
            )
        return {
            "reading": reading,
            "target": self._target(target, reading) if against is None else self._less(target, against, reading),
        }, []

    def _less(self, target: Any, against: Any, reading: Reading) -> Target:
        """How much more of one class there is than of another, with their names."""
        labels = reading.labels or []
        first, second = pair = [self._class_of(t, labels) if isinstance(t, str) else t for t in (target, against)]
        made = answers.contrast_of(self.model, first, second, self._texts(reading))
        known = dict(enumerate(labels))
        names = ["the predicted class" if c is None else repr(known[c]) if c in known else f"class {c}" for c in pair]
        return made.named(f"{names[0]} rather than {names[1]}")

    def _asking(self, raw: Any, reading: Reading) -> Asking | None:
        """Who turns words into targets, of a model that says something of every token."""
        kind = asked.kind_of(self.model, self.kind)
        tokenizer = getattr(self.processor, "tokenizer", self.processor)
        words = hasattr(tokenizer, "get_vocab") and not (
            self.kind == "image-text" and answers.answers_in_words(self.model)
        )
        if not kind or not words:
            return None
        stream = "decoder_input_ids" if "decoder_input_ids" in reading.raw else self.stream
        stream = "input_ids" if self.kind == "image-text" and stream == self.stream else stream
        passages = asked.passages(self.model, raw) if kind == "span" else []
        return Asking(kind, self.model, tokenizer, reading, stream, self.labels, self.label, passages)

    def _objects(
        self, raw: Any, named: list[Any], threshold: float | None, reading: Reading
    ) -> Callable[[Any], list[Found]]:
        """What finds the objects that are asked for in the model's output."""
        if isinstance(raw, list) and len(raw) > 1:
            raise InputError(f"{type(self.model).__name__} finds other objects in every picture; give them one by one")
        least = detection.check_threshold(detection.THRESHOLD if threshold is None else threshold)
        picture = cast(Picture, reading.raw[self.stream][0])
        names = self.labels or [f"class {i}" for i in range(int(cast(Any, self.model).config.num_labels))]
        wanted = {self.label(t) if isinstance(t, str) else t for t in named} if None not in named else None
        of = None if wanted is None else detection.classes_of(wanted, len(names))
        return lambda output: detection.found_in(output, picture, names, least, of)

    def compare(
        self,
        raw: Any,
        target: Any = None,
        methods: Sequence[str] | None = None,
        sites: Sequence[Any] | str | None = None,
        baseline: Any = None,
        *,
        truncate: bool = False,
        regions: Any = None,
        against: Any = None,
        token: str | int | None = None,
        **options: Any,
    ) -> Any:
        """Read raw inputs and put maps of several methods at several sites side by side: `regard.compare`.

        A class or a word may be given by its name, sites and a baseline in words, as in `explain`. Of the objects that a
        detector finds, the likeliest is compared; of the words that are tagged, the first.
        """
        from regard.evaluation.compare import compare

        def explained(_model: Any, given: Any, *args: Any, **how: Any) -> Any:
            how |= {"truncate": truncate, "regions": regions, "against": against, "token": token}
            found = self.explain(given, *args, **how)
            return detection.likeliest(found) if self.detects else asked.first(found)

        def inspected(_model: Any, given: Any) -> Any:
            return self.inspect(given, truncate=truncate, regions=regions)

        return compare(
            self.model,
            raw,
            target,
            methods,
            sites if sites is None or isinstance(sites, str) else [self._site(s) for s in sites],
            self._baseline(baseline),
            explained=explained,
            inspected=inspected,
            **options,
        )

    def explain_generation(
        self,
        prompt: Any,
        max_new_tokens: int | None = None,
        method: str = "gae",
        target: str = "logit",
        *,
        baseline: Any = None,
        site: Any = None,
        **options: Any,
    ) -> Any:
        """Let the model write on from a prompt, and explain every token that it writes: a `regard.Generation`.

        The model writes with its own `generate`, greedily unless `options` say otherwise; then one pass over the prompt
        and what was written tells what each new token rests on, among the prompt and the tokens written before it.

        Args:
            prompt: what `read` takes; a list of prompts (that is no chat) gives a list. What a decoder beside an encoder
                is to begin with (a task, a language, the first words) is given as decoder_input_ids, or, for a reader of
                documents, as the text beside the picture; the model's own writing begins after it.
            max_new_tokens: at most so many (default: what `generation_config` says, else 20); the model may end sooner.
            method: a name from `regard.methods()`.
            target: "logit" or "log_probability" of each token written, or "contrast" with the best other token there.
            baseline: as in `explain`.
            site: as in `explain`.
            options: seed (of the drawing, with do_sample=True; default 0), measure, streams and memory_budget as in
                `regard.explain`, the method's own options, and what the model's `generate` takes, such as do_sample, top_p,
                num_beams or a generation_config.

        Raises InputError for a prompt that cannot be read or is too long, Misuse for options that do not fit, ModelError
        for a model that does not write.
        """
        from regard.api.explain_generation import explain_generation

        if isinstance(prompt, list) and not is_chat(prompt):
            more = {"baseline": baseline, "site": site, **options}
            return [self.explain_generation(p, max_new_tokens, method, target, **more) for p in prompt]
        reading, notes = self._to_write(prompt)
        options |= {"baseline": self._baseline(baseline), "site": self._site(site)}
        return explain_generation(
            self.model, self._tokenizer, reading, notes, max_new_tokens, method, target, **options
        )

    def explain_writing(
        self,
        prompt: Any,
        answer: Any,
        against: Any = None,
        method: str = "gae",
        target: str = "logit",
        *,
        baseline: Any = None,
        site: Any = None,
        **options: Any,
    ) -> Any:
        """Explain an answer that is there already (a reference, an API's, the rejected one): a `regard.Generation`.

        One pass over the prompt and the answer tells what each of its tokens rests on, and `generation.whole` what all of
        it does: its log-probability given the prompt, the sum over its tokens.

        Args:
            prompt: what `read` takes, as in `explain_generation`.
            answer: a text, or the ids of its tokens, (tokens,) or (1, tokens). A text goes on from the prompt's; where a
                prompt that is no chat and a text that begins with a letter or digit lack a space between them, it is put in.
                No end-of-text token is added. Ids that begin with the prompt's own, as `generate` gives them, lose these.
            against: another answer, likewise: then `whole` is what tells `answer` from it, log p(answer) - log p(against),
                each after its own tokens, the map of the one less that of the other. Where both have as many tokens, each
                token is explained against the one in its place, after the same tokens of `answer`: by the difference of
                their log-probabilities (0 where they are the same token); else by its own log-probability.
            method: as in `explain_generation`.
            target: as in `explain_generation`; it is of no account with `against`.
            baseline: as in `explain`.
            site: as in `explain`.
            options: as in `explain_generation`.

        Raises InputError for a prompt or an answer that cannot be read or is too long, Misuse and ModelError as
        `explain_generation` does.

        Yin and Neubig (2022), "Interpreting Language Models with Contrastive Explanations".
        """
        from regard.api.explain_generation import explain_writing

        if isinstance(prompt, list) and not is_chat(prompt):
            raise Misuse("an answer goes with one prompt, and a list was given; give them one by one")
        reading, notes = self._to_write(prompt)
        options |= {"baseline": self._baseline(baseline), "site": self._site(site)}
        return explain_writing(self.model, self._tokenizer, reading, notes, answer, against, method, target, **options)

    def _to_write(self, prompt: Any) -> tuple[Reading, list[str]]:
        """A prompt for a model that writes. Raises ModelError for one that does not."""
        if self.kind in ("image", "regions-text"):
            raise ModelError(f"{type(self.model).__name__} reads pictures and writes no text")
        if isinstance(self.model, embeddings.Embedder):
            raise ModelError(f"{type(self.model.inner).__name__} makes vectors of texts and writes none; use explain")
        if answers.answers_in_words(self.model):
            raise ModelError(f"{type(self.model).__name__} answers as a whole; use explain, which explains the answer")
        return self._read(prompt, False)

    @property
    def _tokenizer(self) -> Any:
        if self.kind not in ("image-text", "sound"):
            return self.processor
        found = getattr(self.processor, "tokenizer", None)
        if found is None and can_write(self.model):
            name = type(self.model).__name__
            raise ModelError(f"what {name} writes cannot be read: give its processor, with a tokenizer")
        return found

    def inspect(
        self, raw: Any, target: Any = None, *, truncate: bool = False, regions: Any = None, **options: Any
    ) -> Any:
        """Read raw inputs and show what Regard sees of the model's run on them: `regard.inspect`, with its options."""
        reading = self._run_on(raw, truncate, regions)
        options = options if target is None else options | {"target": self._single(raw, target, reading)}
        return _face().inspect(self.model, reading.inputs, **options)

    def verify(self, raw: Any, *, truncate: bool = False, regions: Any = None, **options: Any) -> Any:
        """Read raw inputs and prove whose tokens the model's attention reads on them: `regard.verify`, with its options."""
        return _face().verify(self.model, self._run_on(raw, truncate, regions).inputs, **options)

    def record(
        self, raw: Any, target: Any = None, *, truncate: bool = False, regions: Any = None, **options: Any
    ) -> Any:
        """Read raw inputs and record the model's run on them: `regard.record`; classes may be given by name."""
        reading = self._run_on(raw, truncate, regions)
        of = None if target is None else self._single(raw, target, reading)
        return _face().record(self.model, reading.inputs, target=of, **options)

    def _single(self, raw: Any, target: Any, reading: Reading) -> Any:
        """A class or a word as one target."""
        asking = self._asking(raw, reading)
        return self._target(target, reading) if asking is None else asked.single(asking, target)

    def _run_on(self, raw: Any, truncate: bool, regions: Any) -> Reading:
        """Tensors that the model can be run on: where it answers in words, with its answer."""
        reading = self._read(raw, truncate, regions)[0]
        self._check_text(reading)
        if self.kind == "image-text" and answers.answers_in_words(self.model):
            reading = answers.answered(self.model, self.processor.tokenizer, reading, None)[0]
        return reading

    def label(self, name: str) -> int:
        """Return the class number of a label.

        A label matches as it is written, else in any case, else by one of its synonyms between commas ("tabby cat" for
        "tabby, tabby cat"), else as a class number in digits.

        Raises TargetError for a name that several classes bear and for a number out of range, UnknownName for others.
        """
        return self._class_of(name, self.labels)

    def _class_of(self, name: str, labels: Sequence[str]) -> int:
        wanted = name.strip().casefold()
        matches = (
            lambda label: label == name,
            lambda label: label.strip().casefold() == wanted,
            lambda label: wanted in [part.strip().casefold() for part in label.split(",")],
        )
        for match in matches:
            found = [i for i, label in enumerate(labels) if match(label)]
            if len(found) > 1:
                numbers = ", ".join(map(str, found))
                raise TargetError(f"label {name!r} stands for several classes: {numbers}; give one of these numbers")
            if found:
                return found[0]
        if wanted.isdecimal():
            return self._number(int(wanted), labels)
        if not labels:
            raise UnknownName(f"unknown label {name!r}; {type(self.model).__name__} names no classes, give a number")
        raise nearest(name, labels, "label")

    def _number(self, number: int, labels: Sequence[str]) -> int:
        if labels and number >= len(labels):
            raise TargetError(f"there is no class {number}; the model has {len(labels)}, numbered from 0")
        return number

    def _texts(self, reading: Reading) -> list[str] | None:
        """The texts that a picture is compared with, which are classes of this reading alone."""
        return None if reading.labels is self.labels else reading.labels

    def _target(self, target: Any, reading: Reading) -> Any:
        if isinstance(target, str):
            target = self._class_of(target, reading.labels or [])
        if isinstance(target, list):
            return [self._target(t, reading) for t in target]
        if target is None and isinstance(self.model, embeddings.Embedder):
            return embeddings.likeness(self.model)
        a_class = target is None or (isinstance(target, int) and not isinstance(target, bool))
        pair, texts = self.kind == "image-text", self._texts(reading)
        return answers.target_of(self.model, target, pair, texts) if a_class else target

    def _site(self, site: Any) -> Any:
        return Site.parse(site) if isinstance(site, str) else site

    def _baseline(self, baseline: Any) -> Any:
        """Words read, with this reader's own tokens; also in a dict of streams."""
        if isinstance(baseline, Mapping):
            return {stream: self._baseline(b) for stream, b in baseline.items()}
        return Baseline.parse(baseline, self._token_id) if isinstance(baseline, str) else baseline

    def _token_id(self, kind: str) -> int:
        """The id of the tokenizer's mask token, or of what it pads with. Raises Misuse where it has none."""
        tokenizer = getattr(self.processor, "tokenizer", self.processor)
        if self.kind == "image":
            raise Misuse(f"baseline {kind!r} is for texts, and {type(self.model).__name__} reads pictures; use zero")
        found = tokenizer.mask_token_id if kind == "mask" else pad_id(tokenizer)
        if found is None:
            raise Misuse(f"{type(tokenizer).__name__} has no {kind} token; use another baseline, such as zero")
        return int(found)

    def _read(self, raw: Any, truncate: bool, regions: Any = None) -> tuple[Reading, list[str]]:
        raws = raw if isinstance(raw, list) and not is_chat(raw) else [raw]
        if not raws:
            raise InputError("an empty list was given; give at least one picture or text")
        if self.kind == "regions-text":
            return self._read_regions(raws, truncate, regions)
        if regions is not None:
            raise Misuse(f"{type(self.model).__name__} reads {self.kind}s, not regions of a picture; leave regions out")
        if self.kind == "image-text":
            return self._read_pair(raws)
        if self.kind == "embedding":
            return self._read_embedding(raws, truncate)
        if self.kind == "sound":
            return self._read_sounds(raws, truncate)
        return self._read_pictures(raws) if self.kind == "image" else self._read_texts(raws, truncate)

    def _read_sounds(self, raws: list[Any], truncate: bool) -> tuple[Reading, list[str]]:
        """Read sounds, and begin the text of a model that writes."""
        extractor = sounds.extractor_of(self.processor)
        heard = [sounds.hear(extractor, self.model, raw, number, truncate) for number, raw in enumerate(raws)]
        inputs = _renamed(sounds.stacked(heard), sounds.main_of(heard[0].inputs), self.stream)
        raw: dict[str, list[Raw]] = {self.stream: [h.sound for h in heard]}
        start, tokenizer = start_of(self.model), getattr(self.processor, "tokenizer", None)
        begun: dict[str, list[Raw]] = {}
        if start is not None:
            inputs = inputs | {"decoder_input_ids": torch.full((len(raws), 1), start)}
            begun = {"decoder_input_ids": [begun_text(tokenizer, [start])] * len(raws)} if tokenizer else {}
        notes = [note for h in heard for note in h.notes]
        return Reading(self._fit(inputs), {**raw, **begun}, labels=self.labels or None), notes

    def _read_embedding(self, raws: list[Any], truncate: bool) -> tuple[Reading, list[str]]:
        """Read texts, or the two sides of pairs of texts."""
        sides = embeddings.read(self.processor, cast(embeddings.Embedder, self.model), raws, truncate)
        return Reading(
            inputs=self._fit({k: v for side in sides for k, v in side.inputs.items()}),
            raw={side.stream: side.texts for side in sides},
            special={side.stream: side.special.to(self._place()[0]) for side in sides},
        ), self.notes + [note for side in sides for note in side.notes]

    def _read_pair(self, raws: list[Any]) -> tuple[Reading, list[str]]:
        """Read pictures with their prompt."""
        if len(raws) > 1:
            raise InputError(f"{type(self.model).__name__} reads one prompt at a time; give them one by one")
        given, said = pairs.split(raws[0], self.wants, type(self.model).__name__)
        if compared.are_texts(said):
            return self._read_compared(given, said)
        pixels = [read_picture(picture, number) for number, picture in enumerate(given)]
        begun, said = (said, None) if self.wants.begins else (None, said)
        prompt = pairs.prompt_of(self.model, self.processor, said, len(given))
        images, options = [to_image(p) for p, _ in pixels], pairs.padding(self.model)
        tensors, text, told = pairs.read_pair(self.processor, prompt, images, options)
        raw: dict[str, list[Raw]] = {}
        special: dict[str, Tensor] = {}
        if text is not None:
            self._check_length(text)
            check_known(self.processor.tokenizer, self.model, tensors["input_ids"][0].tolist())
            raw["input_ids"] = [text]
            special["input_ids"] = torch.tensor([text.special], device=self._place()[0])
        pictures, views, notes = self._pictures(pixels)
        if len(pictures) == 1:  # the patches of several pictures are one stream, that no picture can be laid under
            raw[self.stream] = [pictures[0]]
        mean, std = (views[0].mean, views[0].std) if views else (None, None)
        if start_of(self.model) is not None and "decoder_input_ids" in inspect.signature(self.model.forward).parameters:
            ids = begins_with(self.model, self.processor.tokenizer, begun)
            tensors["decoder_input_ids"] = torch.tensor([ids])
            raw["decoder_input_ids"] = [begun_text(self.processor.tokenizer, ids)]
        return Reading(self._fit(tensors), dict(raw), special, self.labels or None, mean, std), told + notes

    def _read_compared(self, given: list[Any], texts: list[Any]) -> tuple[Reading, list[str]]:
        """Read one picture with the texts that it is compared with: its classes."""
        compared.check(self.model, texts, len(given))
        pixels = read_picture(given[0], 0)
        options = pairs.padding(self.model)
        tensors, read, told = compared.read(self.processor, texts, to_image(pixels[0]), options)
        for text in read:
            self._check_length(text)
        check_known(self.processor.tokenizer, self.model, tensors["input_ids"].flatten().tolist())
        pictures, views, notes = self._pictures([pixels])
        return Reading(
            inputs=self._fit(tensors),
            raw={"input_ids": [*read], self.stream: [*pictures]},
            special={"input_ids": torch.tensor([text.special for text in read], device=self._place()[0])},
            labels=list(texts),
            mean=views[0].mean,
            std=views[0].std,
        ), told + notes

    def _read_regions(self, raws: list[Any], truncate: bool, regions: Any) -> tuple[Reading, list[str]]:
        """Read regions of a picture with a question."""
        name = type(self.model).__name__
        if len(raws) > 1:
            raise InputError(f"{name} reads one picture and question at a time; give them one by one")
        given, question = boxes.split(raws[0], name)
        pixels, called = read_picture(given)
        tensors, places = boxes.read_regions(regions, self.encoder, pixels, name)
        boxes.check_width(tensors[boxes.FEATURES], self.model)
        height, width = pixels.shape[:2]
        batch = read_texts(self.processor, self.model, [question], truncate)
        return Reading(
            inputs=self._fit(batch.inputs | tensors),
            raw={
                "input_ids": [replace(batch.texts[0], name="question")],
                boxes.FEATURES: [Picture(pixels, (0.0, 0.0, float(width), float(height)), called, places)],
            },
            special={"input_ids": batch.special.to(self._place()[0])},
            labels=self.labels or None,
        ), batch.notes

    def _check_text(self, reading: Reading) -> None:
        """Refuse to run a captioner that has no text yet."""
        if self.kind == "image-text" and not {"input_ids", "decoder_input_ids"} & set(reading.inputs):
            name = type(self.model).__name__
            raise Misuse(f"{name} has no text to score yet: explain_generation explains what it writes of the picture")

    def _check_length(self, text: Text) -> None:
        limit = longest(self.processor.tokenizer, self.model)
        if limit is not None and len(text.tokens) > limit:
            raise InputError(
                f"the prompt makes {len(text.tokens)} tokens, and {type(self.model).__name__} takes {limit}"
            )

    def _read_texts(self, raws: list[Any], truncate: bool) -> tuple[Reading, list[str]]:
        batch = read_texts(self.processor, self.model, raws, truncate)
        self._check_padding(batch.inputs["attention_mask"])
        inputs: dict[str, Tensor] = batch.inputs
        raw: dict[str, list[Raw]] = {self.stream: [*batch.texts]}
        if start_of(self.model) is not None:  # beside an encoder: what is asked for is the first token that it writes
            begun = begins_with(self.model, self.processor, None)
            inputs = inputs | {"decoder_input_ids": torch.tensor([begun] * len(raws))}
            raw["decoder_input_ids"] = [begun_text(self.processor, begun)] * len(raws)
        return Reading(
            inputs=self._fit(_renamed(inputs, "input_ids", self.stream)),
            raw=dict(raw),
            special={self.stream: batch.special.to(self._place()[0])},
            labels=self.labels or None,
        ), batch.notes

    def _check_padding(self, mask: Tensor) -> None:
        """Refuse a batch that a decoder's classifier, which finds the last token by its padding, would refuse."""
        name, config = type(self.model).__name__, cast(Any, getattr(self.model, "config", None))
        if len(mask) > 1 and name.endswith("ForSequenceClassification"):
            text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
            if getattr(text_config, "pad_token_id", 0) is None:
                raise InputError(
                    f"this {name} takes one text at a time, for its config names no padding token; "
                    "give them one by one, or set model.config.pad_token_id = tokenizer.eos_token_id"
                )

    def _read_pictures(self, raws: list[Any]) -> tuple[Reading, list[str]]:
        read = [read_picture(raw, number) for number, raw in enumerate(raws)]
        parts = []
        for pixels, name in read:
            with taking(pixels, name):
                parts.append(self._process(pixels))
        pictures, views, notes = self._pictures(read)
        return Reading(
            inputs=self._fit(_stack(parts)),
            raw={self.stream: pictures},
            labels=self.labels or None,
            mean=views[0].mean,
            std=views[0].std,
        ), notes

    def _pictures(self, read: list[tuple[Pixels, str]]) -> tuple[list[Picture], list[View], list[str]]:
        """Pictures with the part of each that the model sees, and what cannot be said of them."""
        pictures, views, notes = [], [], []
        for pixels, name in read:
            with taking(pixels, name):
                view = self._view(pixels)
            if view.box is None:
                notes.append(f"what part of {name} the model saw could not be found; the map is drawn over all of it")
            height, width = pixels.shape[:2]
            box = view.box or (0.0, 0.0, float(width), float(height))
            pictures.append(Picture(pixels, box, name, tiles=view.tiles))
            views.append(view)
        return pictures, views, notes

    def _process(self, pixels: Pixels) -> dict[str, Tensor]:
        """Run the image processor on one picture; return keyword tensors with a batch axis of one."""
        image = to_image(pixels)
        processor = self.processor.image_processor if self.kind == "image-text" else self.processor
        if hasattr(processor, "preprocess"):
            made = processor(images=[image], return_tensors="pt")
            tensors = {key: value for key, value in made.items() if isinstance(value, Tensor)}
            return _renamed(tensors, "pixel_values", self.stream)
        return {self.stream: processor(image)[None]}

    def _seen(self, pixels: Pixels) -> Tensor:
        """What the model sees of a picture, (channels, rows, columns) where it is seen as one."""
        made = self._process(pixels)
        grid = rasters.grids(self.stream, len(made[self.stream]), made, 1)
        if grid is not None and len(grid) == 1:
            return from_patches(made[self.stream], grid[0], getattr(self.processor, "image_processor", self.processor))
        seen = made[self.stream][0]
        return seen[0] if seen.ndim == 4 and len(seen) == 1 else seen

    def _view(self, pixels: Pixels) -> View:
        """Return what part of such a picture the model sees, measured once for each size."""
        height, width = pixels.shape[:2]
        if (width, height) not in self._views:
            seen = self._seen(pixels)
            tiled = seen.ndim == 4
            self._views[width, height] = (
                probe_tiles(self._seen, len(seen), width, height) if tiled else probe(self._seen, width, height)
            )
        return self._views[width, height]

    def _fit(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Keep what the model's forward names, on the model's device, floats in its dtype."""
        parameters = inspect.signature(self.model.forward).parameters
        named = [k for k in inputs if k in parameters] or list(inputs)
        device, dtype = self._place()
        return {k: inputs[k].to(device, dtype if inputs[k].is_floating_point() else None) for k in named}

    def _place(self) -> tuple[torch.device, torch.dtype]:
        every = [*self.model.parameters(), *self.model.buffers()]
        tensors = [
            t for t in every if not t.is_meta
        ] or every  # offloaded weights are on no device while the model rests
        device = tensors[0].device if tensors and not tensors[0].is_meta else torch.device("cpu")
        return device, next((t.dtype for t in tensors if t.is_floating_point()), torch.float32)


def _face() -> Any:
    """Return the package itself, late: it imports this one."""
    return importlib.import_module("regard")


def _stream(model: nn.Module, kind: Kind) -> str:
    """Return the forward's keyword for pictures or token ids: the usual one, else the model's first."""
    usual = "input_ids" if kind in ("text", "regions-text", "embedding") else "pixel_values"
    every = inspect.signature(model.forward).parameters.values()
    parameters = [p.name for p in every if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if usual in parameters or not parameters:
        return usual
    usual = next((name for name in sounds.STREAMS if kind == "sound" and name in parameters), usual)
    said = getattr(model, "main_input_name", None)
    return said if said in parameters else parameters[0]


def _renamed(inputs: dict[str, Tensor], usual: str, stream: str) -> dict[str, Tensor]:
    """Give the stream the name that the model's forward has for it."""
    return {stream if key == usual else key: value for key, value in inputs.items()}


def _stack(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Join pictures into one batch."""
    shapes = {key: {tuple(part[key].shape[1:]) for part in parts} for key in parts[0]}
    for key, found in shapes.items():
        if len(found) > 1:
            sizes = ", ".join("x".join(map(str, s)) for s in sorted(found))
            raise InputError(f"these pictures have {key} of different sizes ({sizes}); give them one by one")
    return {key: torch.cat([part[key] for part in parts]) for key in shapes}
