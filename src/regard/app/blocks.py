"""The page itself: Gradio's fields and panes, and what each change does. Gradio is imported when a `Playground` is built."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import regard
from regard.app import look
from regard.app.answering import ALONE, METHODS, MODELS, Pane, Wish, answer, sites_of, test
from regard.app.drawn import choices, drop, pane, too_large
from regard.app.examples import ExampleInput, examples_of
from regard.app.limits import Limits
from regard.app.shelf import Needs, Shelf
from regard.errors import RegardError
from regard.extras import brought_by
from regard.preferred import AUTO

PREDICTED = ("what the model predicts", "")
OWN_SITE = ("the method's own", "")
BEST = ("what does best at such a task", AUTO)
FIELDS = ("model", "text", "second", "boxes", "target", "method", "site", "beside", "other_method", "other_model")
"""The fields of a `Wish` that are fields of the page."""
EXAMPLES = '<p class="caption">Examples</p><div class="examples" role="group" aria-label="Examples">${value}</div>'
PAUSE = 0.4
"""Seconds in which nothing else is asked for, before a map is tested: nobody types on."""
Changes = dict[str, Any]


@dataclass
class Visitor:
    """What the server keeps of one visitor: the picture, what was asked for, what is shown, and what of that is tested.

    example: the number of the one that is shown; None where the visitor gave the input, which then stays when another model
    that reads the same is chosen. token: what the browser has for the picture, so that none is taken for another one after
    the server has forgotten a visitor.
    """

    picture: Any = None
    token: str = ""
    asked: Wish | None = None
    panes: list[Pane] = field(default_factory=list)
    tested: list[Pane] | None = None
    example: int | None = 0

    def __deepcopy__(self, _: Any) -> Visitor:
        """A new visitor, as Gradio makes them of the first: with the same example, whose name a copied picture would lose."""
        return replace(self)


class Playground:
    """Builds the page. shelf: the models. folder: where uploads are put."""

    def __init__(self, shelf: Shelf, limits: Limits, folder: Path) -> None:
        self.gr = brought_by("app", "gradio")
        self.shelf, self.limits, self.folder = shelf, limits, folder
        self.at: dict[str, Any] = {}

    def built(self) -> Any:
        """The page with its first example explained and tested; the first model is loaded for it."""
        gr, name = self.gr, self.shelf.names[0]
        needs = self.shelf.needs(name)
        first = examples_of(name, needs)[0]
        wish = Wish(name, first.picture, first.text, first.second, first.boxes)
        panes = answer(self.shelf, wish, self.limits)
        test(panes, self.limits)
        with gr.Blocks(title="Regard", analytics_enabled=False, delete_cache=(300, 900)) as made:
            self.at["visit"] = gr.State(Visitor(first.picture), time_to_live=3600)
            gr.HTML(look.HEADER)
            with gr.Row(elem_id="house"):
                with gr.Column(elem_id="given"):
                    self._given(wish, needs)
                with gr.Column(elem_id="shown"):
                    with gr.Row(elem_id="maps"):
                        self.at["left"] = gr.HTML(pane(panes[0]), elem_id="left", js_on_load=None)
                        self.at["right"] = gr.HTML("", elem_id="right", visible=False, js_on_load=None)
                    gr.HTML(look.FOOTER)
                with gr.Column(elem_id="asked"):
                    self._asked(wish, panes[0])
            self._listen()
        return made

    def _given(self, wish: Wish, needs: Needs) -> None:
        gr, at = self.gr, self.at
        at["model"] = gr.Dropdown(self.shelf.names, value=wish.model, label="Model", elem_id="model")
        at["examples"] = gr.HTML(
            choices(examples_of(wish.model, needs)),
            html_template=EXAMPLES,
            js_on_load=look.read("choose.js"),
        )
        at["drop"] = gr.HTML(
            "",
            html_template=drop(self.limits),
            js_on_load=look.read("drop.js"),
            visible=needs.picture,
            elem_id="drop",
            **too_large(self.limits),
        )
        for name, lines in (("text", 3), ("second", 2), ("boxes", 4)):
            at[name] = gr.Textbox(
                lines=lines, max_lines=8, elem_id=name, **self._field(name, needs, getattr(wish, name))
            )

    def _field(self, name: str, needs: Needs, value: str) -> dict[str, Any]:
        """What a field for words is called, whether it is there, and what it holds."""
        label = {"text": needs.text, "second": needs.second, "boxes": "Boxes, one a line" * needs.boxes}[name]
        return {"label": label or name, "visible": bool(label), "value": value}

    def _asked(self, wish: Wish, shown: Pane) -> None:
        gr, at = self.gr, self.at
        names = [BEST, *((row.name, row.name) for row in regard.methods().rows)]
        custom = {"allow_custom_value": True, "filterable": True}
        at["target"] = gr.Dropdown(
            [PREDICTED, *shown.classes], value="", label="Class or word to explain", elem_id="target", **custom
        )
        at["method"] = gr.Dropdown(names, value=wish.method, label="Method", info=_about(wish.method), elem_id="method")
        at["site"] = gr.Dropdown([OWN_SITE], value="", label="Site", elem_id="site", interactive=False, **custom)
        at["beside"] = gr.Radio([ALONE, METHODS, MODELS], value=ALONE, label="Show", elem_id="beside")
        at["other_method"] = gr.Dropdown(
            names, value=wish.other_method, label="Second method", info=_about(wish.other_method), visible=False
        )
        at["other_model"] = gr.Dropdown([], value=None, label="Second model", visible=False, **custom)

    def _listen(self) -> None:
        """What happens when: each change is answered at once, then what is shown is tested."""
        gr, at = self.gr, self.at
        fields, everything = [at["visit"], at["drop"], *(at[name] for name in FIELDS)], [*at.values()]
        slow, quick = {"show_progress": "minimal"}, {"show_progress": "hidden"}
        events: list[tuple[Any, Callable[..., Any], dict[str, Any]]] = [
            (at["model"].input, self._switch, slow),
            (at["examples"].click, self._choose, slow),
            (at["drop"].upload, self._take, slow),
            (at["method"].input, self._method, slow),
            (at["beside"].input, self._beside, slow),
            *((at[name].change, self._typed, quick) for name in ("text", "second", "boxes")),
            *((at[name].input, self._asked_for, slow) for name in ("target", "site", "other_method", "other_model")),
        ]
        for listen, handler, how in events:
            handled = self._handler(handler, gr.EventData)
            one = {"api_visibility": "private", "concurrency_limit": 1}
            done = listen(handled, fields, everything, concurrency_id="maps", trigger_mode="always_last", **how, **one)
            panes = [at["left"], at["right"]]
            done.then(
                self._tested, [at["visit"]], panes, concurrency_id="tests", trigger_mode="always_last", **quick, **one
            )

    def _handler(self, change: Callable[[Visitor, dict[str, str], Any], Changes], kind: Any) -> Callable[..., Any]:
        """A change as Gradio calls it: with the values of all fields, and what the event carries."""

        def handled(event: Any, visit: Visitor, token: str, *values: Any) -> dict[Any, Any]:
            said = {name: str(value or "") for name, value in zip(FIELDS, values, strict=True)}
            if change == self._switch and visit.asked is not None and visit.asked.model == said["model"]:
                # Gradio tells of one choice twice; what was typed since would be written over
                return {self.at["visit"]: visit}
            if token != visit.token:
                visit.picture = None
            try:
                changes = change(visit, said, getattr(event, "_data", None))
            except RegardError as e:
                changes = self._refused(visit, said, str(e))
            return {self.at[name]: value for name, value in changes.items()} | {self.at["visit"]: visit}

        handled.__annotations__ = {"event": kind}
        return handled

    # -- what each change does: the fields that change with it, and the panes ------------------------------------------------

    def _switch(self, visit: Visitor, said: dict[str, str], _: Any) -> Changes:
        needs = self.shelf.needs(said["model"])
        examples = examples_of(said["model"], needs)
        keeps = visit.example is None and self._fits(needs, visit, said)
        changes = self._words(needs, said) | {"examples": choices(examples, None)}
        if not keeps:
            changes = self._example(visit, said, examples, 0, needs)
        said |= {"target": "", "site": ""}
        if said["beside"] == MODELS:
            changes |= self._other(said)
        return changes | {"target": self.gr.update(value="")} | self._shown(visit, said)

    def _fits(self, needs: Needs, visit: Visitor, said: dict[str, str]) -> bool:
        """Whether what a visitor gave is all that a model reads."""
        there = {"text": bool(said["text"]), "second": bool(said["second"]), "boxes": bool(said["boxes"])}
        wanted = {"text": bool(needs.text), "second": bool(needs.second), "boxes": needs.boxes}
        return there == wanted and (visit.picture is not None) == needs.picture

    def _choose(self, visit: Visitor, said: dict[str, str], event: Any) -> Changes:
        needs = self.shelf.needs(said["model"])
        examples = examples_of(said["model"], needs)
        number = event.get("example") if isinstance(event, dict) else None
        number = number if isinstance(number, int) and 0 <= number < len(examples) else 0
        return self._example(visit, said, examples, number, needs) | self._shown(visit, said)

    def _example(
        self, visit: Visitor, said: dict[str, str], examples: Sequence[ExampleInput], number: int, needs: Needs
    ) -> Changes:
        """Fill the fields with an example."""
        one = examples[number]
        visit.example = number
        said |= {"text": one.text, "second": one.second, "boxes": one.boxes, "target": ""}
        changes = self._words(needs, said) | {"examples": choices(examples, number)}
        return changes | self._picture(visit, one.picture, needs.picture)

    def _picture(self, visit: Visitor, picture: Any, there: bool = True) -> Changes:
        """Keep a picture for a visitor. there: whether the model reads one."""
        visit.picture, visit.token = picture, secrets.token_hex(8)
        return {"drop": self.gr.update(value=visit.token, visible=there)}

    def _words(self, needs: Needs, said: dict[str, str]) -> Changes:
        """The fields for words that a model reads."""
        return {name: self.gr.update(**self._field(name, needs, said[name])) for name in ("text", "second", "boxes")}

    def _own(self, visit: Visitor, said: dict[str, str]) -> Changes:
        """The visitor gave the input: no example is shown any more."""
        if visit.example is None:
            return {}
        visit.example = None
        return {"examples": choices(examples_of(said["model"], self.shelf.needs(said["model"])), None)}

    def _take(self, visit: Visitor, said: dict[str, str], event: Any) -> Changes:
        path = event.get("path") if isinstance(event, dict) else None
        changes = self._picture(visit, self.limits.read_upload(path, self.folder))
        said |= {"target": ""}
        return changes | self._own(visit, said) | self._shown(visit, said)

    def _typed(self, visit: Visitor, said: dict[str, str], _: Any) -> Changes:
        if visit.example is not None:
            put = examples_of(said["model"], self.shelf.needs(said["model"]))[visit.example : visit.example + 1]
            if any(all(said[n] == getattr(e, n) for n in ("text", "second", "boxes")) for e in put):
                return {}  # the example was put there, and nobody typed
        return self._own(visit, said) | self._shown(visit, said)

    def _asked_for(self, visit: Visitor, said: dict[str, str], _: Any) -> Changes:
        return {"other_method": self.gr.update(info=_about(said["other_method"]))} | self._shown(visit, said)

    def _method(self, visit: Visitor, said: dict[str, str], _: Any) -> Changes:
        if said["site"] not in sites_of(said["method"], 1000):
            said |= {"site": ""}
        return {"method": self.gr.update(info=_about(said["method"]))} | self._shown(visit, said)

    def _beside(self, visit: Visitor, said: dict[str, str], _: Any) -> Changes:
        changes = {
            "other_method": self.gr.update(visible=said["beside"] == METHODS),
            "other_model": self.gr.update(visible=said["beside"] == MODELS),
        }
        if said["beside"] == MODELS:
            changes |= self._other(said)
        return changes | self._shown(visit, said)

    def _other(self, said: dict[str, str]) -> Changes:
        """Offer the models that read the same beside the first."""
        alike = self.shelf.alike(said["model"])
        said |= {"other_model": said["other_model"] if said["other_model"] in alike else next(iter(alike), "")}
        return {"other_model": self.gr.update(choices=alike, value=said["other_model"] or None, visible=True)}

    def _shown(self, visit: Visitor, said: dict[str, str]) -> Changes:
        """Answer what the fields ask for: the panes, untested, and what can be chosen now."""
        wish = Wish(picture=visit.picture, **said)
        if wish == visit.asked:  # Gradio tells of one choice twice
            return {}
        visit.asked = wish
        visit.panes = answer(self.shelf, wish, self.limits)
        shown = visit.panes[0]
        changes = self._drawn(visit.panes, testing=True)
        if not shown.refused:
            changes["target"] = self.gr.update(choices=[PREDICTED, *shown.classes], value=said["target"])
        return changes | {"site": self._sites(wish)}

    def _sites(self, wish: Wish) -> Any:
        """Where the method's map can live, in this model."""
        sites = sites_of(wish.method)
        blocks = self.shelf.blocks_seen(wish.model) if sites else 0
        every = sites_of(wish.method, blocks)
        return self.gr.update(choices=[OWN_SITE, *every], value=wish.site, interactive=bool(every))

    def _tested(self, visit: Visitor) -> Any:
        """Test what is shown, and show it with its verdict; nothing where something else has been asked for since."""
        nothing, panes = [self.gr.skip(), self.gr.skip()], visit.panes
        time.sleep(PAUSE)
        if visit.panes is not panes or visit.tested is panes or not any(p.found for p in panes):
            return nothing
        visit.tested = panes  # not a flag: while these wait, others may be asked for, and be answered later
        test(panes, self.limits)
        if visit.panes is not panes:
            return nothing
        drawn = self._drawn(panes, testing=False)
        return [drawn["left"], drawn["right"]]

    def _refused(self, visit: Visitor, said: dict[str, str], why: str) -> Changes:
        """Say why nothing is shown, in the first pane."""
        visit.asked = None
        visit.panes = [Pane(said["model"], said["method"], refused=why)]
        return self._drawn(visit.panes, testing=False)

    def _drawn(self, panes: Sequence[Pane], testing: bool) -> Changes:
        two = len(panes) > 1
        left, *others = [pane(p, testing, beside=two) for p in panes]
        return {"left": left, "right": self.gr.update(value=others[0] if two else "", visible=two)}


def _about(method: str) -> str:
    """What a method is, in one line."""
    if method == AUTO:
        return "by our own tables, one for each kind of task"
    row = next((row for row in regard.methods().rows if row.name == method), None)
    return "" if row is None else f"{row.summary} ({row.paper})"


__all__ = ["Playground", "Visitor"]
