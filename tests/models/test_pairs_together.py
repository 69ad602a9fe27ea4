"""What words and patches do together: on pages, with a browser and without a script, and in the terminal."""

from __future__ import annotations

import copy
import json
import pickle
import re

import pytest
import torch

from regard.errors import Misuse, UnknownName
from regard.explanation.explanation import Explanation
from regard.report.explanation.html import page, write_page
from regard.report.explanation.pairs import STRONGEST, WORDS, pairs_of, signed, tables_of, where
from regard.report.view import view_of
from support.browser import needs_chromium, probed
from support.pairs import save
from support.regions import picture, run

torch.set_num_threads(1)

TEXT = "two red cats on the mat of the cat"


@pytest.fixture(scope="module")
def together(reader):
    return reader("clip").explain((picture(), TEXT), method="interaction", pictures=60, texts=40)


def test_a_word_has_the_sum_of_its_tokens(together):
    (table,) = tables_of(view_of(together))
    every = together.between("input_ids", "pixel_values")[0]
    assert [w.text for w in table.words] == TEXT.split()
    assert table.words[2].tokens == (3, 4)  # cat ##s
    torch.testing.assert_close(torch.from_numpy(table.values[2]), every[3] + every[4])
    assert table.called(2) == "“cats”"
    assert table.called(4) == "“the” (word 5)"


def test_pairs_have_standard_errors(together, tmp_path, reader):
    (table,) = tables_of(view_of(together))
    errors = together.between_errors("input_ids", "pixel_values")
    assert errors.shape == together.between("input_ids", "pixel_values").shape
    torch.testing.assert_close(torch.from_numpy(table.errors[2]), (errors[0, 3] + errors[0, 4]))
    assert float(errors[0, 1:10].min()) > 0
    assert float(errors[0, [0, -1]].abs().max()) == 0  # special tokens are in no pair
    again = Explanation.load(together.save(tmp_path / "a.safetensors"))
    for copied in (
        again,
        pickle.loads(pickle.dumps(together)),
        copy.copy(together),
        copy.deepcopy(together),
        together[0],
    ):
        assert torch.equal(copied.between_errors("input_ids", "pixel_values"), errors)
    one = table.strongest(1)[0]
    assert one.said == f"{signed(one.value)} ± {one.error:.3g}"
    assert one._replace(error=0.0).said == one._replace(error=float("nan")).said == signed(one.value)
    with pytest.raises(Misuse, match="gae draws no pairs of tokens"):
        reader("clip").explain((picture(), TEXT)).between_errors("input_ids", "pixel_values")
    with pytest.raises(UnknownName, match="did you mean 'input_ids'"):
        together.between_errors("input_id", "pixel_values")


def test_the_strongest_pairs_come_first(together):
    (table,) = tables_of(view_of(together))
    found = table.strongest()
    sizes = [abs(p.value) for p in found]
    assert len(found) == STRONGEST
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == pytest.approx(float(abs(table.values).max()))
    one = found[0]
    assert table.values[one.word, one.row * 4 + one.column] == pytest.approx(one.value)
    assert table.drawn() == list(range(9))
    assert len(table.drawn(3)) == 3 < WORDS


@pytest.mark.parametrize(
    ("at", "says"),
    [((0, 0), "upper left"), ((0, 3), "upper"), ((3, 3), "middle"), ((3, 6), "right"), ((6, 0), "lower left")],
)
def test_places_in_plain_words(at, says):
    assert where(*at, (7, 7)) == says
    assert where(0, 0, (1, 1)) == "middle"
    assert (signed(0.5), signed(-0.25), signed(0.0)) == ("+0.5", "-0.25", "0")


def test_the_page_says_what_colours_mean_and_shows_pairs_without_a_script(together):
    source = page([together])
    assert "where the two add more together than each by itself" in source
    assert "where they add less" in source
    assert source.count('class="pick pair"') == STRONGEST
    assert source.count("together with each patch") == 1 + 9  # the legend, and a picture for each word
    assert re.search(r'<noscript><img class="still" src="data:image', source)
    assert "pointing and the switches do not work" in source
    assert "looks at" not in source.partition("<script")[0]
    assert re.search(r"R² -?[\d.]+ on unseen masks", source)
    assert "of a score, over other draws of the subsets" in source
    (view,) = json.loads(re.search(r'id="regard-data">(.*?)</script>', source, re.S)[1])["sections"][0]["views"]
    assert view["pairs"]["limit"] > 0
    for query, key in (("input_ids", "pixel_values"), ("pixel_values", "input_ids")):
        torch.testing.assert_close(
            torch.tensor(view["links"][query][key]), together.between(query, key)[0], rtol=1e-5, atol=1e-9
        )


def test_a_notebook_lists_the_strongest_pairs(together):
    shown = together._repr_html_()
    assert "Strongest pairs" in shown
    assert "<button" not in shown
    assert "How well each fits" not in shown


def test_what_is_saved_has_the_same_page(together, tmp_path):
    again = Explanation.load(together.save(tmp_path / "a.safetensors"))
    assert again.of_pairs
    assert page([again]) == page([together])


def test_other_methods_have_no_pairs(reader):
    exp = reader("clip").explain((picture(), TEXT))
    assert not exp.of_pairs
    assert pairs_of(view_of(exp)) is None
    assert "Strongest pairs" not in page([exp])
    assert "pointing and the switches" not in page([exp])


def test_where_all_subsets_were_run_no_mask_is_unseen(reader):
    exp = reader("clip").explain((picture(), "a cat"), method="interaction", texts=40, pictures=70000, window=2)
    assert exp.receipt.surrogate.exact.all()
    assert "on all masks" in page([exp])
    assert "unseen" not in page([exp])


def test_a_pair_among_texts(reader):
    """The logit of one of several texts: the others are no part of it."""
    exp = reader("clip").explain(picture(), 1, "interaction", texts=["a cat", "two red cats"], pictures=60)
    (table,) = tables_of(view_of(exp))
    assert [w.text for w in table.words] == ["two", "red", "cats"]


def test_a_hostile_text_is_only_text(reader):
    exp = reader("clip").explain((picture(), '"><img src=x> </script>'), method="interaction", pictures=60)
    source = page([exp])
    assert "<img src=x" not in source
    assert source.count("</script>") == 2


def test_the_terminal_names_the_strongest_pairs(files, tmp_path):
    folder = str(save("clip", tmp_path / "clip"))
    how = ("--method", "interaction", "--option", "pictures=60", "--no-test")
    said = run("explain", "scene.png", "-m", folder, *how, "--text", "two red cats").stdout
    assert "strongest pairs: a word and a patch" in said
    assert re.search(r"“(two|red|cats)” with patch \(\d, \d\), [a-z ]+ +[+-]0\.\d+", said)


# ---------------------------------------------------------------- in a browser

PROBE = """<script>
const all = (s) => [...document.querySelectorAll(s)], seen = {}, words = all("#s0 .running:not(.tokens) .w");
const say = () => all("#s0 output")[0].textContent, alpha = () => String(words.map((w) => w.style.getPropertyValue("--a")));
const stage = document.querySelector("#s0 .stage"), b = stage.getBoundingClientRect(), answer = alpha();
const kept = () => !all("#s0 .release")[0].hidden;
const over = (e, kind, more = {}) => e.dispatchEvent(new PointerEvent(kind, {bubbles: true, ...more}));
over(words[1], "pointerover"); seen.word = [say(), kept()];
over(words[1].parentElement, "pointerleave"); seen.left = [alpha() === answer, say()];
const middle = {clientX: b.left + b.width / 2, clientY: b.top + b.height / 2};
over(stage, "pointermove", middle); seen.place = [say(), alpha() === answer];
over(stage, "pointerleave"); seen.gone = alpha() === answer;
words[0].focus(); seen.focus = [say(), kept()];
words[0].dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight", bubbles: true})); seen.arrow = say();
words[1].dispatchEvent(new KeyboardEvent("keydown", {key: "Enter", bubbles: true})); seen.enter = [kept(), location.hash];
over(words[4], "pointerover"); seen.still = say();
words[1].dispatchEvent(new KeyboardEvent("keydown", {key: "Escape", bubbles: true})); seen.escape = alpha() === answer;
stage.focus(); seen.stage = say();
stage.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowDown", bubbles: true})); seen.down = say();
stage.blur();
words[2].click(); seen.tap = [kept(), words[2].getAttribute("aria-pressed")]; words[2].click(); seen.again = kept();
all(".pair")[0].click(); seen.pair = [kept(), say(), document.querySelector("#s0 .pinned").getAttribute("visibility")];
document.body.textContent = JSON.stringify(seen);
</script></body>"""


@pytest.mark.long
@needs_chromium
def test_pointing_tapping_and_keys_in_a_browser(together, tmp_path):
    file = write_page([together], tmp_path / "a.html")
    seen = probed(file, file.read_text(encoding="utf-8"), PROBE)
    (table,) = tables_of(view_of(together))
    best, worst = int(table.values[1].argmax()), int(table.values[1].argmin())
    assert seen["word"][0].startswith(f"“red”, by itself {table.words[1].score:.3g}"[:15])
    assert f"more together with patch ({best // 4 + 1}, {best % 4 + 1}) (" in seen["word"][0]
    assert f"less with patch ({worst // 4 + 1}, {worst % 4 + 1}) (−" in seen["word"][0]
    assert seen["word"][1] is False  # a look keeps nothing
    assert seen["left"] == [True, "Point at the map to read a score."]
    assert seen["place"][0].startswith("patch (3, 3), by itself")
    assert seen["place"][1] is False
    assert seen["gone"]
    assert seen["focus"][0].startswith("“two”, by itself")
    assert seen["focus"][1] is False
    assert seen["arrow"].startswith("“red”, by itself")
    assert seen["enter"] == [True, "#s0-word-2"]
    assert re.fullmatch(r"the: -?[\d.e-]+ by itself", seen["still"])  # while one is kept, others tell their own
    assert seen["escape"]
    assert seen["stage"].startswith("patch (3, 3), by itself")
    assert seen["down"].startswith("patch (4, 3), by itself")
    assert seen["tap"] == [True, "true"]
    assert seen["again"] is False
    assert seen["pair"][0]
    assert seen["pair"][1].startswith(table.strongest()[0].text.partition(" (")[0])
    assert seen["pair"][2] == "visible"
