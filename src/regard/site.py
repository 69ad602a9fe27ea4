"""Where a map lives, and where its baseline is put (formulas.md section 1)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from regard.errors import Misuse, nearest

NUMBERED = re.compile(r"([a-z]+)(?:\[([^\[\]]*)\]|:([^\[\]:]*))?", re.IGNORECASE)
SPELLINGS = {
    "input": "input",
    "embeddings": "embeddings",
    "block": "block[L]",
    "attention": "attention[C]",
    "attention:all": "attention:all",
}


@dataclass(frozen=True)
class Site:
    """A place in the model. Make one with the class methods; `label` is its name on receipts and pages.

    A site is a *frontier* if it holds all that is still read after it, so that y is a function of it alone: the inputs, the
    embeddings, the states of all streams after a block. One stream's state, or the A of one attention, is not a frontier.
    """

    kind: str
    layer: int | None = None
    stream: str | None = None
    joint: bool = False

    @property
    def label(self) -> str:
        """Its name, as `block[3]`."""
        if self.kind == "attention":
            return "attention, all calls" if self.joint else f"attention[{self.layer}]"
        if self.kind == "block":
            return f"block[{self.layer}]" + (f", {self.stream} alone" if self.stream else "")
        return self.kind

    @classmethod
    def input(cls) -> Site:
        """Float inputs; word embeddings for ids."""
        return cls("input")

    @classmethod
    def embeddings(cls) -> Site:
        """What the first block of every stream is given: positions added, nothing attended yet."""
        return cls("embeddings")

    @classmethod
    def block(cls, l: int, stream: str | None = None) -> Site:
        """The states of all streams after block l, in execution order (`regard.inspect(...).blocks`); -1 is the last.

        In an encoder-decoder this is a decoder block together with the encoder's output, in co-attention both streams.
        `stream` names one of them: then the others stay as they are, and the receipt says `complete=False`.
        """
        return cls("block", l, stream)

    @classmethod
    def attention(cls, c: int | None = None, *, joint: bool = False) -> Site:
        """A of attention c, from A0 = 0 (its output zeroed); `joint=True`: all attentions together. Never a frontier."""
        return cls("attention", None if joint else c, None, joint)

    @classmethod
    def parse(cls, words: str) -> Site:
        """`input`, `embeddings`, `block[3]` or `block:3`, `attention[2]`, `attention:all`; negative numbers count from the end.

        Of a model that encodes a picture and a text apart, negative blocks count from the end of either tower.

        Raises UnknownName or Misuse, naming what would be accepted.

        >>> Site.parse("block:-2").label
        'block[-2]'
        """
        words = words.strip()
        read = NUMBERED.fullmatch(words)
        name = read[1].casefold() if read else words
        if read is None or name not in SPELLINGS:
            raise nearest(name, SPELLINGS.values(), "site")
        number = read[2] if read[2] is not None else read[3]
        if name in ("input", "embeddings"):
            if number is not None:
                raise Misuse(f"site {name!r} takes no number, but {words!r} has one; write {name}")
            return cls(name)
        if name == "attention" and number is not None and number.strip().casefold() == "all":
            return cls.attention(joint=True)
        return cls(name, _number(name, number, words))


def _number(name: str, number: str | None, words: str) -> int:
    """The number of a block or an attention call. Raises Misuse where it is none."""
    if number is None or not re.fullmatch(r"\s*-?[0-9]{1,9}\s*", number):
        thing, more = "block", "; block[-1] is the last"
        if name == "attention":
            thing, more = "attention call", ", or attention:all for all calls together"
        raise Misuse(f"site {words!r} needs the number of its {thing}, as in {name}[1]{more}")
    return int(number)
