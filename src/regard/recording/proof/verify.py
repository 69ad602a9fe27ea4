"""A proof of provenance that anyone can run: before attention moves anything, do rows rest on the tokens they are said to be?

The model is run once with every attention output cut: O becomes O.detach(), and its gradient goes on to a random projection of
the row's own query (values stay bit-identical; all paths but attention are left). Queries, keys and values of each call, the
operands of scores that the model makes itself, the rows and columns of such weights, and the final states are then weighted by
a code of the *claimed* tokens, their channels by seeded random numbers. Codes have equally many bits, so that none contains
another: a gradient of a bit at a token whose code lacks that bit contradicts a claim. C(10, 5) = 252 claims take 10 gradients.

What it proves: row -> tokens, where the model is differentiable. Not the shares 1/m of merged tokens, not which calls a row has
absorbed (`seen`), not the read-out, not hard gates (top-k, capacity). Each call's A and layout are held against its own
backward pass (Aᵀ dO) as well; rows of A over an attention, of one call or several, against what they must sum to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from regard.recording.ambient import our_own
from regard.recording.proof.attention_check import together
from regard.recording.proof.claims import Claims, places, rounds
from regard.recording.proof.coded import TOLERANCE, Masses, Test, named, worst
from regard.recording.proof.cut_run import Cut, Term, Unit, units
from regard.recording.proof.findings import Contradiction, Mixed, Verification
from regard.recording.proof.kernel_check import kernels
from regard.recording.record import record
from regard.recording.recording import Recording
from regard.recording.refusals import refuse, refuse_enclosed
from regard.recording.tokens.tags import STRIDE

MOST = 3
"""Contradictions that are looked for by name; each costs some twenty gradients."""


def verify(
    model: nn.Module,
    inputs: Any,
    *,
    streams: Mapping[str, Any] | None = None,
    training: bool = False,
    batch_axis: Any = 0,
) -> Verification:
    """Prove that rows of attention calls rest on the tokens that maps name, and return a table of what contradicts it.

    Args:
        model: as for `regard.explain`; it is left as found.
        inputs: as for `regard.explain`.
        streams: as for `regard.explain`.
        training: as for `regard.explain`.
        batch_axis: as for `regard.explain`.

    Returns:
        A `Verification`; it is false if something is contradicted. It prints as a table.

    It proves which tokens each row is a function of before attention moves anything, as far as the model is differentiable.
    It does not prove the shares of merged tokens, the order of calls, the read-out, or hard gates. It costs a forward pass
    and about log2(tokens) + 2 + (calls) / 2 gradients.

    Raises:
        ModelError: the model cannot be watched, or its backward pass fails.
    """
    refuse(model, training)
    devices = list({p.device for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices), our_own():
        cut = Cut()
        recording = record(
            model,
            inputs,
            edits=[cut],
            streams=streams,
            training=training,
            strict=False,
            states=True,
            batch_axis=batch_axis,
        )
        with torch.enable_grad():
            return _verified(recording, cut)


def _verified(recording: Recording, cut: Cut) -> Verification:
    if inside := [str(c.index) for c in recording.calls if c.enclosed or c.detached]:
        refuse_enclosed(recording.returned, ", ".join(inside))
    untested: list[str] = []
    claims = Claims(recording)
    found, beside = places(recording)
    gradients = Masses(found)
    all_units = units(recording, cut, untested)
    alive = [u for u in all_units if _alive(claims, u, gradients, untested)]
    wrong = list(_contradictions(claims, alive, gradients))
    sums: dict[int, Tensor] = {}
    wrong += kernels(recording, cut, untested, sums)
    wrong += together(recording, cut, sums)
    mixed = _mixed(claims, alive, gradients)
    untested += beside
    tested = sum(len(t.ids) for u in alive for t in u.terms)
    calls = sum(1 for u in alive if u.terms and u.terms[0].call is not None)
    return Verification(tested, calls, wrong, untested, mixed, 1 + gradients.passes)


def _alive(claims: Claims, unit: Unit, gradients: Masses, untested: list[str]) -> bool:
    """Whether any gradient passes; its terms are brought to one scale, and rows that pass none are told."""
    parts = [t.value(torch.ones(len(t.ids))) for t in unit.terms]
    if unit.weights is not None:
        call = unit.weights.call
        parts.append(unit.weights.value(*(torch.ones(ids.shape) for ids in (call.queries, call.keys))))
    if not parts:
        return False
    masses = gradients(torch.stack([p.double().cpu() for p in parts]).sum())
    most = max((float(m.max()) for m in masses if m.numel()), default=0.0)
    table = torch.zeros(claims.recording.batch + 1, claims.recording.rows, dtype=torch.bool)
    for m, p in zip(masses, gradients.places, strict=True):
        for ids in p.ids:
            at = ids.expand(m.shape)[m > 0]
            table[at // STRIDE, at % STRIDE] = True
    dead = rows = 0
    for term in unit.terms:
        for claim in term.claims(claims, sharp=True):
            if claim.tokens and claim.tokens != {0} and not claims.padding(claim):
                rows += 1
                dead += not bool(table[claim.sample, list(claim.tokens)].any())
    if dead:
        how = (
            "no gradient comes through its rows"
            if dead == rows
            else f"no gradient comes through {dead} of its {rows} rows"
        )
        untested.append(f"{unit.what}: {how} (rounded, multiplied by zero, or cut off)")
    for part in unit.parts:
        part.scale = 1 / most if most else 1.0
    return True


def _contradictions(claims: Claims, alive: Sequence[Unit], gradients: Masses) -> Iterator[Contradiction]:
    """One for each side of a call that is wrong, the first of them by name."""
    terms = [t for u in alive for t in u.terms]
    every = dict.fromkeys(c for t in terms for c in t.claims(claims, sharp=False))
    left = MOST
    for some, at in _biased_apart(alive, gradients):
        for one in rounds(claims, every):
            units_left = list(some)
            while left:
                test = Test(claims, one, units_left, at)
                ledger = test.run()
                spot = None if ledger is None else worst(ledger)
                if spot is None:
                    break
                left -= 1
                contradiction, part = named(test, spot)
                yield contradiction
                units_left = [
                    Unit(u.what, [t for t in u.terms if t is not part], None if u.weights is part else u.weights)
                    for u in units_left
                ]
        gradients.passes += at.passes if at is not gradients else 0


def _biased_apart(alive: Sequence[Unit], gradients: Masses) -> Iterator[tuple[list[Unit], Masses]]:
    """Weights to whose scores the model added another input say nothing of that input's tokens: they are tested by themselves,
    at all other inputs."""
    plain = {id(u): u.weights is None or not u.weights.call.biased for u in alive}
    yield [u if plain[id(u)] else Unit(u.what, u.terms) for u in alive], gradients
    apart = [u for u in alive if not plain[id(u)]]
    for names in dict.fromkeys(u.weights.call.biased for u in apart if u.weights is not None):
        yield (
            [Unit(u.what, [], u.weights) for u in apart if u.weights and u.weights.call.biased == names],
            gradients.without(names),
        )


def _mixed(claims: Claims, alive: Sequence[Unit], gradients: Masses) -> list[Mixed]:
    """How much of the rows of mixed streams is of other tokens than their own."""
    blurred = []
    for unit in alive:
        for t in unit.terms:
            rows = torch.tensor([claims.mixed(i, t.event) for i in t.ids.tolist()])
            if bool(rows.any()):
                blurred.append(
                    Unit(unit.what, [Term(t.call, t.side, t.event, t.s[rows.to(t.s.device)], t.ids[rows], t.scale)])
                )
    if not blurred:
        return []
    every = dict.fromkeys(c for u in blurred for t in u.terms for c in t.claims(claims, sharp=True))
    total = off = 0.0
    for one in rounds(claims, every):
        ledger = Test(claims, one, blurred, gradients, sharp=True).run()
        if ledger is not None:
            total += sum(float(t.double().sum()) for t in ledger.total)
            off += sum(float(o.double().sum()) for o in ledger.off)
    # A bit of another token's code is off with the chance that a code lacks it, one in two.
    if off <= TOLERANCE * total:
        return []
    share = min(1.0, 2 * off / total)
    by = dict.fromkeys(m.operation for m in claims.recording.mixings if m.operation)
    names = dict.fromkeys(claims.names[t] for c in every for t in c.tokens if claims.names[t])
    return [Mixed(" and ".join(names), ", ".join(by), share)]


__all__ = ["Contradiction", "Mixed", "Verification", "verify"]
