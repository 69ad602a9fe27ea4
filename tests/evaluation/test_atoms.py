"""The parser of reactions, on some written here; what counts as a hit; the folder that `regard evaluate` reads."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch

from regard.errors import Misuse
from regard.evaluation.data.reactions import Reaction, token_of


@pytest.fixture
def atoms(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("atoms")


ESTER = (
    "[CH3:1][C:2](=[O:3])Cl.[OH:4][c:5]1[cH:6][nH:7][cH:8]1.[Na+].[O-:9][13CH3:10]>>"
    "[CH3:1][C:2](=[O:3])[O:4][c:5]1[cH:6][nH:7][cH:8]1"
)


@pytest.mark.parametrize(
    ("written", "text", "element", "number"),
    [
        ("[CH3:12]", "C", "C", 12),
        ("[cH:6]", "c", "C", 6),
        ("[nH:7]", "[nH]", "N", 7),
        ("[n:7]", "n", "N", 7),
        ("[O-:9]", "[O-]", "O", 9),
        ("[C@@H:3]", "[C@@H]", "C", 3),
        ("[13CH3:10]", "[13CH3]", "C", 10),
        ("[SiH3:2]", "[SiH3]", "Si", 2),
        ("[Cl:1]", "Cl", "Cl", 1),
        ("[Fe+2:4]", "[Fe+2]", "Fe", 4),
        ("[se:5]", "[se]", "Se", 5),
        ("[*:1]", "*", "*", None),
        ("[1*:1]", "[1*]", "*", None),
        ("[Na+]", "[Na+]", "Na", None),
        ("[nH]", "[nH]", "N", None),
        ("Br", "Br", "Br", None),
        ("c", "c", "C", None),
        ("(", "(", "", None),
        ("=", "=", "", None),
        ("1", "1", "", None),
        (">>", ">>", "", None),
    ],
)
def test_a_token_loses_its_number_and_brackets_that_say_nothing(
    written: str, text: str, element: str, number: int | None
) -> None:
    assert token_of(written) == (text, element, number)


def test_a_mapped_reaction_is_read_as_the_model_reads_it() -> None:
    reaction = Reaction.parse(ESTER)
    plain = "CC(=O)Cl.Oc1c[nH]c1.[Na+].[O-][13CH3]>>CC(=O)Oc1c[nH]c1"
    assert "".join(t.text for t in reaction.tokens) == plain
    assert reaction.product == "CC(=O)Oc1c[nH]c1"
    written = [reaction.tokens[i].text for i in reaction.reactant_atoms]
    assert written == ["C", "C", "O", "Cl", "O", "c", "c", "[nH]", "c", "[Na+]", "[O-]", "[13CH3]"]


def test_each_numbered_atom_of_the_product_is_asked_for_its_own_origin() -> None:
    reaction = Reaction.parse(ESTER)
    numbers = [(reaction.tokens[i].number, reaction.tokens[j].number) for i, j in reaction.questions]
    assert numbers == [(n, n) for n in range(1, 9)]
    assert all(j < reaction.arrow < i for i, j in reaction.questions)


def test_an_atom_from_nowhere_and_a_placeholder_are_not_asked_for() -> None:
    reaction = Reaction.parse("[1*:1][CH:2]=C.O>>[*:1][CH2:2][CH3:9]")
    assert [reaction.tokens[i].text for i, _ in reaction.questions] == ["C"]
    assert reaction.reactant_atoms == [0, 1, 3, 5]


@pytest.mark.parametrize("wrong", ["CCO", "C>>C>>C", "C!>>C", "[CH3:1>>C"])
def test_what_is_no_reaction_is_refused(wrong: str) -> None:
    with pytest.raises(Misuse, match="no reaction SMILES"):
        Reaction.parse(wrong)


def test_reactions_are_found_among_the_strings_of_a_file(atoms: ModuleType) -> None:
    source = 'x = ["[CH3:1]Br>>[CH3:1]O |f:0.1|", "C>>C", "[CH3:5]Br>>[CH3:5]O"]\ny = "[OH2:1]>>" "[OH-:1]"  # "[N:1]>>[N:1]"'
    assert sorted(atoms.reactions_in(source)) == ["[CH3:1]Br>>[CH3:1]O", "[OH2:1]>>[OH-:1]"]


def test_a_hit_is_the_largest_score_of_those_that_compete(atoms: ModuleType) -> None:
    reaction = Reaction.parse("[CH3:1]Br.[OH2:2]>>[CH3:1][OH:2]")
    vocabulary = {t: i for i, t in enumerate(["[UNK]", "[CLS]", "[SEP]", "[MASK]", "C", "Br", ".", "O", ">>"])}
    asked = atoms.Questions.of(reaction, vocabulary)
    assert asked.ids.tolist() == [[1, 4, 5, 6, 7, 8, 3, 7, 2], [1, 4, 5, 6, 7, 8, 4, 3, 2]]
    assert (asked.truth.tolist(), asked.origin.tolist()) == ([4, 7], [1, 4])
    scores = torch.tensor([[9.0, 2, 1, 0, 0, 0, 99, 0, 0], [0.0, 3, 0, 0, 2, 0, 1, 99, 0]])
    found = {among: asked.hits(scores, among) for among in asked.among}
    assert found == {"reactant atoms": [1, 0], "of the element": [1, 1], "all tokens": [0, 0]}
    scores[0, 0] = 0
    assert asked.hits(scores, "all tokens") == [1, 0]
    assert atoms.chance([asked], "reactant atoms") == pytest.approx(1 / 3)


def test_a_wheel_that_is_another_one_is_refused(atoms: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="holds no rxnmapper"):
        atoms.wheel(tmp_path)
    (tmp_path / atoms.WHEEL).write_bytes(b"no wheel")
    with pytest.raises(Misuse, match="sha256"):
        atoms.wheel(tmp_path)
