"""`load`, and the Reader that it returns: Regard's calls on raw pictures, texts and sound, with names of classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from regard import probe
from regard.api.causal_later import tested_or_noted
from regard.api.default_method import by_default
from regard.api.explain import explain_found, explain_reading
from regard.api.explain_generation import explain_generation, explain_writing
from regard.api.inspect import inspect
from regard.api.words_to_trust import words_to_trust
from regard.baseline import Baseline
from regard.editing.budget import BUDGETS, checked_budget
from regard.editing.pictures import rewrite_pictures
from regard.editing.second_class import tell_apart
from regard.errors import InputError, Misuse, ModelError, TargetError
from regard.explanation.boxes import Found
from regard.explanation.explanations import Explanations
from regard.explanation.raw_inputs import Picture, Reading
from regard.guide import Guide
from regard.models import default_targets, detectors, embeddings, loading, token_targets, zero_shot
from regard.models.chats import is_chat
from regard.models.default_targets import Wanted
from regard.models.labels import called, class_of, labels_of
from regard.models.loading import Loaded
from regard.models.phrases import phrases_in
from regard.models.places import is_name
from regard.models.reading import RawReader
from regard.models.texts import pad_id
from regard.models.token_targets import TokenTargets
from regard.preferred import AUTO, GAE, PREFERRED
from regard.recording.proof.verify import verify
from regard.recording.record import out_of_sight, record
from regard.site import Site
from regard.target import Target
from regard.zoo import in_zoo
from regard.zoo.region_encoder import REGIONS, region_encoder


class Reader(RawReader):
    """Explains one model with raw pictures, texts or sound, and names of classes; made by `regard.load`."""

    def __repr__(self) -> str:
        model = self.model.inner if isinstance(self.model, embeddings.Embedder) else self.model
        return f"Reader({type(model).__name__}, kind={self.kind!r}, {len(self.labels)} labels)"

    @property
    def detects(self) -> bool:
        """Whether the model finds objects in pictures."""
        return self.kind == "image" and detectors.can_detect(self.model)

    @property
    def classifies(self) -> bool:
        """Whether the model puts each picture, or each text, into one of several classes."""
        several = len(self.labels) > 1 and getattr(self.model.config, "problem_type", None) != "regression"
        whole = self.kind in ("image", "text") and not token_targets.kind_of(self.model, self.kind)
        return several and whole and not self.detects and not isinstance(self.model, embeddings.Embedder)

    @property
    def answers(self) -> bool:
        """Whether the model finds the answer to a question in a text; it reads (question, text)."""
        return token_targets.kind_of(self.model, self.kind) == "span"

    def explain(
        self,
        raw: Any,
        target: Any = None,
        method: Any = AUTO,
        *,
        baseline: Any = None,
        site: Any = None,
        truncate: bool = False,
        regions: Any = None,
        threshold: float | None = None,
        against: Any = None,
        token: str | int | None = None,
        texts: Sequence[str] | int | None = None,
        labels: Sequence[str] | None = None,
        templates: str | Sequence[str] | None = None,
        **options: Any,
    ) -> Any:
        """Read raw inputs and explain the model's output on them: `regard.explain` with what the reader knows.

        `method` is a name from `regard.methods()`, a list of them, or "auto": what does best at such a task in our own tables,
        which a note on the receipt names.

        A class may be given by its name (see `label`), also in a list of targets; `against` names another to contrast it with.
        A site and a baseline may be given in words: "block[3]", "blur:5", "mask" (see `Site.parse`, `Baseline.parse`).
        `regions` as in `read`. `options` go to `regard.explain`; a guide may be given in words, with classes by name (see
        `Guide.parse`).

        With `guide=Guide.picture(path)`, or "picture:FILE", a second picture of another class (`against`; by default what the
        model takes it for) is put beside the first one on a canvas of the model's input size. The contrast of the two classes
        is explained on the canvas, and given on the first picture's own tokens; `explanation.told` has all maps of both.

        A detector's objects are its targets: all objects found with a probability of at least `threshold` (default 0.5), or
        those of the classes named; a flat list, methods outer, objects inner, the likeliest first. For matching models the
        match is explained, for embedding models the similarity of two texts. A model that answers in words takes the answer as
        its target, by default its own.

        Where pictures and texts are compared (CLIP, SigLIP), `texts` are the classes of the picture `raw`, as in
        (picture, [texts]); or `labels` are, each put into `templates` such as "a photo of a {}." (default: as it is). With
        several templates a class's score is that of the mean of its texts' embeddings (see `zero_shot.Ensemble`). A target is a
        class's number or name, by default the likeliest; "all" is every class, as a list is, from one forward pass.
        `Target.probability(number)` and `Target.log_probability(number)` are among these classes: by softmax, or of SigLIP by
        sigmoid. How well each fits is in `explanation.compared`. (A number as `texts` is the option of method "interaction".)

        Models that score every token take words as targets. For one that writes: the next token, by default the predicted one,
        as in target="Paris", against="London". For one that fills in masks: the word at the mask. For one that tags words:
        every word that it tags (a flat list), those with the tag that `target` names, or the word (or token number) `token`.
        For one that finds answers and reads (question, text): its best answer, or the one that `target` spells. A word of
        several tokens stands for its first, and a note says so.
        """
        guide = Guide.make(options.pop("guide", None))
        if guide is not None and guide.kind == "picture":
            _refuse_beside(token=token, threshold=threshold, regions=regions, truncate=truncate or None)
            method = GAE if method == AUTO else method
            options |= {"baseline": self._baseline(baseline), "site": self._site(site)}
            return self._beside(raw, target, guide, against, method, options)
        if isinstance(texts, int):
            texts, options = None, options | {"texts": texts}
        raw = zero_shot.joined(self.model, self.kind, raw, texts, labels, templates)
        reading, notes = self.read_noted(raw, truncate, regions)
        self.check_text(reading)
        asking = self._asking(raw, reading)
        wanted = self._wanted(raw, target, threshold, reading, against, token, asking)
        options |= {} if guide is None else {"guide": self._guide(guide, target, reading, asking, token)}
        how = {"baseline": self._baseline(baseline), "site": self._site(site), **options}
        tested = how.get("measure") == "causal"  # when it is known what the classes are called
        how |= {"measure": "full"} if tested else {}

        def explained(method: Any) -> Any:
            if wanted.find is not None:
                return explain_found(self.model, wanted.reading, wanted.find, method=method, **how)
            return explain_reading(self.model, wanted.reading, wanted.target, method=method, **how)

        found = by_default(self._task(), method, how, explained)
        every = found if isinstance(found, list) else [found]
        for explanation in every:
            explanation.receipt.notes.extend([*wanted.notes, *notes])
        if isinstance(wanted.find, zero_shot.AskedClasses):
            found = wanted.find.told(every, several=not isinstance(method, str))
        if asking is not None and asking.kind in ("next", "mask"):
            token_targets.names_in(every, asking)
        if tested:
            for explanation in every:
                tested_or_noted(explanation)
        return found

    def _beside(self, raw: Any, target: Any, guide: Guide, against: Any, method: Any, options: dict[str, Any]) -> Any:
        """The maps of a picture that is guided by another one, on its own tokens: one, or one for each method."""
        if against is not None and guide.value.target is not None:
            raise Misuse("the class of the second picture is given twice; leave against= out")
        e = against if guide.value.target is None else guide.value.target
        c, e = (self.label(k) if isinstance(k, str) else k for k in (target, e))
        if not all(k is None or (hasattr(k, "__index__") and not isinstance(k, bool)) for k in (c, e)):
            raise TargetError(
                "a second picture tells one class from another: give each by its name or number, or not at all"
            )
        guide = Guide.picture(guide.value.picture, e, guide.value.within, guide.label)
        told = tell_apart(
            self,
            raw,
            c if c is None else int(c),
            guide,
            [method] if isinstance(method, str) else list(method),
            lambda k: default_targets.target_of(self.model, k, False),
            self._contrast,
            **options,
        )
        found = Explanations(t.guided for t in told)
        return found[0] if isinstance(method, str) else found

    def _guide(self, guide: Guide, target: Any, reading: Reading, asking: TokenTargets | None, token: Any) -> Guide:
        """A guide with its names of classes and words read."""
        if guide.kind != "contrast" or guide.value is None or not isinstance(guide.value, str):
            return guide
        if asking is not None and asking.kind == "span":  # an answer has no class: both of its places are contrasted
            wanted = token_targets.of_words(asking, reading, target, guide.value, token)
            return Guide("target", wanted.target, guide.label)
        if asking is not None:
            rival, name = asking.rival(guide.value, token)
            return Guide("contrast", rival, f"contrast with {name}")
        return Guide("contrast", class_of(guide.value, reading.labels or [], self.model), guide.label)

    def _wanted(
        self,
        raw: Any,
        target: Any,
        threshold: float | None,
        reading: Reading,
        against: Any = None,
        token: Any = None,
        asking: TokenTargets | None = None,
    ) -> Wanted:
        """What one call of `explain` is to explain."""
        several, name = target if isinstance(target, list) else [target], type(self.model).__name__
        if self.detects and several and all(detectors.explains_objects(t) for t in several):
            if against is not None or token is not None:
                raise Misuse("against= and token= do not apply to objects that a detector finds")
            return Wanted(reading, find=self._objects(raw, several, threshold, reading))
        if threshold is not None:
            raise Misuse(f"threshold= is for objects that a detector finds, and none are explained here ({name})")
        if self._answers_in_words:
            if not isinstance(target, str | None):
                raise TargetError(f"{name} answers in words: give one answer as the target, or none for its own")
            return default_targets.answered(self.model, self.processor.tokenizer, reading, target)
        if asking is not None:
            return token_targets.of_words(asking, reading, target, against, token)
        if token is not None:
            raise Misuse(f"token= is for models that score every token; {name} does not")
        if reading.templates:
            return Wanted(reading, find=zero_shot.AskedClasses.of(self.model, reading, target, against))
        return Wanted(
            reading, self._target(target, reading) if against is None else self._less(target, against, reading)
        )

    @property
    def default_method(self) -> str:
        """The method that "auto" stands for, where nothing is asked for that it does not take."""
        return PREFERRED[self._task()].names[0]

    def _task(self) -> str:
        """What is explained, as the table of default methods calls it; "" where attention runs out of sight, which is said."""
        if out_of_sight(self.model):
            return ""
        if self.kind == "image" or (self.kind == "image-text" and default_targets.compares(self.model)):
            return "picture"
        if token_targets.kind_of(self.model, self.kind) == "next":
            return {"text": "prompt", "image-text": "caption"}.get(self.kind, "")
        return "text" if self.kind == "text" and not isinstance(self.model, embeddings.Embedder) else ""

    @property
    def _answers_in_words(self) -> bool:
        """Whether the model's answer is a text, which its forward scores as a whole."""
        return self.kind == "image-text" and default_targets.answers_in_words(self.model)

    def _less(self, target: Any, against: Any, reading: Reading) -> Target:
        """The contrast of one class with another, with their names."""
        labels = reading.labels or []
        first, second = (class_of(t, labels, self.model) if isinstance(t, str) else t for t in (target, against))
        return self._contrast(first, second, labels)

    def _contrast(self, c: Any, d: Any, labels: Sequence[str] | None = None) -> Target:
        """The contrast of two classes by their numbers, with their names."""
        names = self.labels if labels is None else labels
        made = default_targets.contrast_of(self.model, c, d)
        return made.named(f"{called(c, names)} rather than {called(d, names)}")

    def _asking(self, raw: Any, reading: Reading) -> TokenTargets | None:
        """What turns words into targets, for a model that scores every token."""
        kind = token_targets.kind_of(self.model, self.kind)
        tokenizer = getattr(self.processor, "tokenizer", self.processor)
        if not kind or self._answers_in_words or not hasattr(tokenizer, "get_vocab"):
            return None
        stream = "decoder_input_ids" if "decoder_input_ids" in reading.raw else self.stream
        stream = "input_ids" if self.kind == "image-text" and stream == self.stream else stream
        passages = token_targets.passages(self.model, raw) if kind == "span" else []
        return TokenTargets(kind, self.model, tokenizer, reading, stream, self.labels, self.label, passages)

    def _objects(
        self, raw: Any, named: list[Any], threshold: float | None, reading: Reading
    ) -> Callable[[Any], list[Found]]:
        """What finds the wanted objects in the model's output."""
        if isinstance(raw, list) and len(raw) > 1:
            raise InputError(
                f"{type(self.model).__name__} finds different objects in every picture; give them one by one"
            )
        least = detectors.check_threshold(detectors.THRESHOLD if threshold is None else threshold)
        picture = cast(Picture, reading.raw[self.stream][0])
        names = self.labels or [f"class {i}" for i in range(int(cast(Any, self.model).config.num_labels))]
        wanted = {self.label(t) if isinstance(t, str) else t for t in named} if None not in named else None
        of = None if wanted is None else detectors.classes_of(wanted, len(names))
        return lambda output: detectors.found_in(output, picture, names, least, of)

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
            return detectors.likeliest(found) if self.detects else token_targets.first(found)

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

    def attention_vs_posthoc(
        self,
        raws: Iterable[Any],
        target: Any = None,
        *,
        truncate: bool = False,
        regions: Any = None,
        against: Any = None,
        token: str | int | None = None,
        **options: Any,
    ) -> Any:
        """Read raw inputs one by one, and tell how far attention maps agree with post-hoc maps: `regard.attention_vs_posthoc`.

        Classes, words, sites and baselines in words as in `explain`. Of a detector's objects the likeliest is explained.
        """
        from regard.evaluation.posthoc import attention_vs_posthoc

        def explained(_model: Any, given: Any, *args: Any, **how: Any) -> Any:
            how |= {"truncate": truncate, "regions": regions, "against": against, "token": token}
            found = self.explain(given, *args, **how)
            return detectors.likeliest(found) if self.detects else token_targets.first(found)

        return attention_vs_posthoc(self.model, raws, target, explained=explained, **options)

    def explain_generation(
        self,
        prompt: Any,
        max_new_tokens: int | None = None,
        method: str = AUTO,
        target: str = "logit",
        *,
        baseline: Any = None,
        site: Any = None,
        **options: Any,
    ) -> Any:
        """Let the model continue a prompt, and explain every token that it writes: a `regard.Generation`.

        The model writes with its own `generate`, greedily unless `options` say otherwise. Then one pass over the prompt
        and the writing shows what each new token rests on, among the prompt and the tokens written before it.

        Args:
            prompt: what `read` takes; a list of prompts (not a chat) gives a list. For an encoder-decoder, give what the
                decoder begins with (a task, a language, the first words) as decoder_input_ids or, for a reader of
                documents, as the text beside the picture; the model's own writing begins after it.
            max_new_tokens: the most tokens to write (default: what a generation_config among the options says, else 20,
                whatever the model's own says); the model may stop sooner.
            method: a name from `regard.methods()`, or "auto", as in `explain`.
            target: "logit" or "log_probability" of each token written, or "contrast" with the best other token there.
            baseline: as in `explain`.
            site: as in `explain`.
            options: seed (for sampling, with do_sample=True; default 0), measure, streams and memory_budget as in
                `regard.explain`, the method's own options, and what the model's `generate` takes, such as do_sample, top_p,
                num_beams or a generation_config.

        Raises InputError for a prompt that cannot be read or is too long, Misuse for options that do not fit, ModelError
        for a model that does not write.
        """
        if isinstance(prompt, list) and not is_chat(prompt):
            more = {"baseline": baseline, "site": site, **options}
            return [self.explain_generation(p, max_new_tokens, method, target, **more) for p in prompt]
        reading, notes = self._to_write(prompt)
        options |= {"baseline": self._baseline(baseline), "site": self._site(site)}

        def explained(method: str) -> Any:
            return explain_generation(
                self.model, self.tokenizer, reading, notes, max_new_tokens, method, target, **options
            )

        return by_default(self._task(), method, options, explained)

    def explain_writing(
        self,
        prompt: Any,
        answer: Any,
        against: Any = None,
        method: str = AUTO,
        target: str = "logit",
        *,
        baseline: Any = None,
        site: Any = None,
        **options: Any,
    ) -> Any:
        """Explain an existing answer (a reference, an API's answer, a rejected one): a `regard.Generation`.

        One pass over the prompt and the answer shows what each of its tokens rests on. `generation.whole` shows what the
        whole answer rests on: its log-probability given the prompt, the sum over its tokens.

        Args:
            prompt: what `read` takes, as in `explain_generation`.
            answer: a text, or the ids of its tokens, (tokens,) or (1, tokens). A text continues the prompt's; if the prompt
                is not a chat, the text begins with a letter or digit, and there is no space between them, one is added.
                No end-of-text token is added. If ids begin with the prompt's own, as `generate` returns them, these are cut.
            against: another answer, given likewise. Then `whole` explains log p(answer) - log p(against), each after its own
                tokens: its map is the difference of the two maps. If both have the same number of tokens, each token is
                explained against the one in its place, after the same tokens of `answer`: by the difference of
                their log-probabilities (0 for equal tokens); otherwise by its own log-probability.
            method: as in `explain_generation`.
            target: as in `explain_generation`; ignored with `against`.
            baseline: as in `explain`.
            site: as in `explain`.
            options: as in `explain_generation`.

        Raises InputError for a prompt or an answer that cannot be read or is too long, Misuse and ModelError as
        `explain_generation` does.

        Yin and Neubig (2022), "Interpreting Language Models with Contrastive Explanations".
        """
        if isinstance(prompt, list) and not is_chat(prompt):
            raise Misuse("an answer goes with one prompt, and a list was given; give them one by one")
        reading, notes = self._to_write(prompt)
        options |= {"baseline": self._baseline(baseline), "site": self._site(site)}

        def explained(method: str) -> Any:
            return explain_writing(
                self.model, self.tokenizer, reading, notes, answer, against, method, target, **options
            )

        return by_default(self._task(), method, options, explained)

    def words_to_trust(
        self,
        prompt: Any,
        answer: Any = None,
        method: str = "gae",
        *,
        shown: Sequence[str] | None = None,
        max_new_tokens: int | None = None,
        baseline: Any = None,
        site: Any = None,
        **options: Any,
    ) -> Any:
        """Tell which words of a caption or an answer rest on the picture, and which on other words: a `TrustedWords`.

        Each word has the share of its relevance that lies on the picture, and the change of its log-probability when the
        context is read again, weighed by that relevance. A low share is a weak hint that the word is made up, no proof of it:
        on zoo/vlm-scenes the word's own log-probability tells far more (docs/vlm.md).

        Args:
            prompt: what `read` takes, as in `explain_generation`.
            answer: a text that is there already, as in `explain_writing`; None: the model writes it.
            method: as in `explain_generation`.
            shown: the streams whose share is counted; None: all that is no text.
            max_new_tokens: as in `explain_generation`.
            baseline: as in `explain`.
            site: as in `explain`.
            options: as in `explain_generation`.

        Costs what `explain_generation` costs, and one more forward pass for each token. Raises Misuse where the model is
        shown nothing but text and shown= names none; else as `explain_generation` and `explain_writing`.

        Sun et al. (2022), "Explain and improve: LRP-inference fine-tuning for image captioning models".
        """
        reading, notes = self._to_write(prompt)
        options |= {"baseline": self._baseline(baseline), "site": self._site(site)}
        more = {"shown": shown, "max_new_tokens": max_new_tokens, **options}
        return words_to_trust(self.model, self.tokenizer, reading, notes, answer, method, **more)

    def rewrite(
        self,
        picture: Any,
        to: Any,
        keep: Any = None,
        within: Any = None,
        norm: str = "linf",
        budget: float | int | str | None = None,
        minimal: bool = False,
        **options: Any,
    ) -> Any:
        """Change a picture as little as can be so that the model takes it for another class: a `regard.Rewriting`.

        The picture that is changed has the size that the model sees (`rewriting.before`, `rewriting.after`); `rewriting.png()`
        is its file. Whether it has the new class is asked of that file, 8 bits a channel, read again.

        Args:
            picture: what `read` takes; a list of pictures makes one rewriting of all.
            to: the class to be taken for, by name or number; for several pictures also one each, in an integer tensor.
            keep: a class that is to stay the second, likewise.
            within: where pixels may change: a mask of the picture's size (an array, a tensor, or a picture that is not black
                there), or "internal": the tokens that speak for the new class. Other pixels stay exactly as they are.
            norm: as in `regard.rewrite`, as are `minimal` and `options` (steps, restarts, seed, maps, told).
            budget: the most that the norm may be, in fractions of the range of pixels, such as 2/255.
            minimal: look for the smallest budget that suffices.
            options: see `norm`.

        Raises ModelError for a model that does not say what a picture shows, Misuse and InputError for what does not fit.
        """
        wanted, kept = (self.label(c) if isinstance(c, str) else c for c in (to, keep))
        how = {"norm": norm, "budget": budget, "minimal": minimal, **options}
        return rewrite_pictures(self, picture, wanted, kept, within, **how)

    def robustness(
        self, pictures: Sequence[Any], to: Any = None, budget: float | str | None = None, **options: Any
    ) -> Any:
        """How little rewrites what the model says of some pictures: a `regard.editing.robustness.Robustness`.

        Every picture is rewritten to every other class (`to`: to one or some, by name or number; default where there are more
        than 10 classes: to the second likeliest) with the smallest budget that suffices, in L∞, up to `budget` (default 4/255).
        Then it is measured what changes of the file do to the easiest rewriting of each picture, and what gives it away.
        `options`: steps, seed and told, as in `regard.rewrite`.

        Raises what `rewrite` raises, and Misuse without scikit-learn (`regard[eval]`).
        """
        from regard.editing.robustness import robustness

        some = to if to is None or (isinstance(to, Iterable) and not isinstance(to, str)) else [to]
        wanted = None if some is None else [self.label(c) if isinstance(c, str) else c for c in some]
        most = BUDGETS["linf"] if budget is None else checked_budget(budget)
        return robustness(self, pictures, wanted, most, **options)

    def _to_write(self, prompt: Any) -> tuple[Reading, list[str]]:
        """A prompt for a model that writes. Raises ModelError for one that does not."""
        if self.kind in ("image", "regions-text"):
            raise ModelError(f"{type(self.model).__name__} reads pictures and writes no text")
        if isinstance(self.model, embeddings.Embedder):
            raise ModelError(
                f"{type(self.model.inner).__name__} makes vectors of texts and does not write; use explain"
            )
        if self._answers_in_words:
            raise ModelError(
                f"{type(self.model).__name__} gives its answer as a whole; use explain, which explains the answer"
            )
        return self.read_noted(prompt, False)

    def inspect(
        self, raw: Any, target: Any = None, *, truncate: bool = False, regions: Any = None, **options: Any
    ) -> Any:
        """Read raw inputs and show what Regard sees of the model's run on them: `regard.inspect`, with its options."""
        reading = self._run_on(raw, truncate, regions)
        options = options if target is None else options | {"target": self._single(raw, target, reading)}
        return inspect(self.model, reading.inputs, **options)

    def verify(self, raw: Any, *, truncate: bool = False, regions: Any = None, **options: Any) -> Any:
        """Read raw inputs and prove whose tokens the model's attention reads on them: `regard.verify`, with its options."""
        return verify(self.model, self._run_on(raw, truncate, regions).inputs, **options)

    def probe(
        self, name: str, raw: Any, target: Any = None, *, truncate: bool = False, regions: Any = None, **options: Any
    ) -> Any:
        """Read raw inputs and ask one of the probes of `regard.probe` about the model's run on them.

        Args:
            name: one of `regard.probe.PROBES`. raw: what `read` takes; several inputs make one batch.
            target: for a probe of a target, as in `explain`: one class or word. truncate, regions: as in `read`.
            options: of the probe. The `pairs` of grounding may have their phrases in words; of one input they are a list of
                (phrase, regions), of several a list of these for each.
        """
        ask = probe.named(name, target=target, **options)
        reading = self._run_on(raw, truncate, regions)
        if probe.of_target(name):
            options["target"] = self._single(raw, target, reading)
        if "pairs" in options:
            options["pairs"] = phrases_in(reading, options["pairs"], options.get("query_stream"))
        found = ask(self.model, reading.inputs, **options)
        raws = next(iter(reading.raw.values()), ())
        pictures = tuple(p for some in reading.raw.values() for p in some if isinstance(p, Picture) and p.regions)
        told = {
            "names": tuple(r.name for r in raws),
            "classes": tuple(reading.labels or self.labels),
            "pictures": pictures,
        }
        return dataclasses.replace(found, **{k: v for k, v in told.items() if hasattr(found, k)})

    def record(
        self, raw: Any, target: Any = None, *, truncate: bool = False, regions: Any = None, **options: Any
    ) -> Any:
        """Read raw inputs and record the model's run on them: `regard.record`; classes may be given by name."""
        reading = self._run_on(raw, truncate, regions)
        of = None if target is None else self._single(raw, target, reading)
        return record(self.model, reading.inputs, target=of, **options)

    def _single(self, raw: Any, target: Any, reading: Reading) -> Any:
        """A class or a word as one target."""
        asking = self._asking(raw, reading)
        return self._target(target, reading) if asking is None else token_targets.single(asking, target)

    def _run_on(self, raw: Any, truncate: bool, regions: Any) -> Reading:
        """Tensors that the model can be run on; if it answers in words, with its answer."""
        reading, _ = self.read_noted(raw, truncate, regions)
        self.check_text(reading)
        if self._answers_in_words:
            reading = default_targets.answered(self.model, self.processor.tokenizer, reading, None).reading
        return reading

    def label(self, name: str) -> int:
        """Return the class number of a label.

        A label matches as it is written, else in any case, else by one of its synonyms between commas ("tabby cat" for
        "tabby, tabby cat"), else as a class number in digits.

        Raises TargetError for a name that several classes share and for a number out of range, UnknownName for other names.
        """
        return class_of(name, self.labels, self.model)

    def _target(self, target: Any, reading: Reading) -> Any:
        if reading.templates:
            return zero_shot.target_of(self.model, reading, target)
        if isinstance(target, str):
            target = class_of(target, reading.labels or [], self.model)
        if isinstance(target, list):
            return [self._target(t, reading) for t in target]
        if target is None and isinstance(self.model, embeddings.Embedder):
            return embeddings.likeness(self.model)
        a_class = target is None or (isinstance(target, int) and not isinstance(target, bool))
        return default_targets.target_of(self.model, target, self.kind == "image-text") if a_class else target

    def _site(self, site: Any) -> Any:
        return Site.parse(site) if isinstance(site, str) else site

    def _baseline(self, baseline: Any) -> Any:
        """Words read, with this reader's own tokens; also in a dict of streams."""
        if isinstance(baseline, Mapping):
            return {stream: self._baseline(b) for stream, b in baseline.items()}
        return Baseline.parse(baseline, self._token_id) if isinstance(baseline, str) else baseline

    def _token_id(self, kind: str) -> int:
        """The id of the tokenizer's mask, padding or unknown token. Raises Misuse if it has none."""
        tokenizer = getattr(self.processor, "tokenizer", self.processor)
        if self.kind == "image":
            raise Misuse(f"baseline {kind!r} is for texts, and {type(self.model).__name__} reads pictures; use zero")
        found = pad_id(tokenizer) if kind == "pad" else getattr(tokenizer, f"{kind}_token_id")
        if found is None:
            raise Misuse(f"{type(tokenizer).__name__} has no {kind} token; use another baseline, such as zero")
        return int(found)


def _refuse_beside(**given: Any) -> None:
    """Raise Misuse for what has no meaning where a second picture is put beside the first."""
    for name, value in given.items():
        if value is not None:
            raise Misuse(
                f"{name}= does not apply where a second picture guides: two pictures and their classes are told apart"
            )


def load(
    name_or_model: Any,
    processor: Any = None,
    *,
    task: str | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
    allow_missing: bool = False,
    pooling: str | None = None,
    **from_pretrained: Any,
) -> Reader:
    """Load a model together with its preprocessing. Needs `regard[hf]`.

    Args:
        name_or_model: a zoo name ("zoo/vit-scenes"), a folder made by `save_pretrained` (also an adapter's, if its base is a
            local folder), a name on the Hugging Face hub; a module, which is used as it is and needs `processor`; or an
            object that holds both, such as a pipeline, a SentenceTransformer, a CrossEncoder or a Trainer.
        processor: an image processor, a tokenizer, a processor that holds one of them, a callable from a PIL image to
            a tensor (channels, rows, columns), or a name or folder to load one from. Default: the model's own.
        task: one of `regard.models.loading.TASKS`; default: what the checkpoint's architecture says.
        trust_remote_code: run Python code that comes with the checkpoint.
        revision: branch, tag or commit on the hub.
        allow_missing: accept that the checkpoint lacks weights, which are then random.
        pooling: how an embedding model makes one vector from those of its tokens (a name of `embeddings.POOLINGS`), if
            neither its folder nor its object says so. Give such a model two texts as a tuple; their similarity is explained.
        from_pretrained: further options of Transformers' `from_pretrained`, such as `dtype` or `local_files_only`.

    Raises InputError for a model or processor that cannot be found or read, UnknownName for a task or zoo name,
    ModelError for one that cannot be loaded as it is.
    """
    options = {"trust_remote_code": trust_remote_code, "revision": revision}
    processor = in_zoo(processor)
    if not is_name(name_or_model):
        return _reader_of(loading.around(name_or_model, processor, task, options | from_pretrained, pooling))
    name = in_zoo(name_or_model)
    return _reader_of(loading.by_name(name, processor, task, options, from_pretrained, allow_missing, pooling))


def _reader_of(loaded: Loaded) -> Reader:
    """The reader of a model, with an encoder of boxes if its folder has one."""
    folder = None if loaded.folder is None else Path(loaded.folder)
    encoder = None if folder is None or not (folder / REGIONS).is_file() else region_encoder(folder)
    labels = [] if loaded.kind == "embedding" else labels_of(loaded.model)
    return Reader(loaded.model, loaded.processor, loaded.kind, labels, encoder, loaded.notes)
