"""What can be refused before anything heavy is imported is: a wrong file, folder, model, method, site, baseline, option."""

import json
import subprocess
import sys

import pytest

TEXT = ("explain", "a fine film", "-m", "zoo/bert-sentiment")
REFUSED = [
    ((*TEXT, "--method", "gea"), "did you mean 'gae'"),
    ((*TEXT, "--site", "blok[3]"), "did you mean 'block[L]'"),
    ((*TEXT, "--baseline", "blur:none"), "blur:none is not understood"),
    ((*TEXT, "--memory-budget", "64 XB"), "memory_budget must be a positive number of bytes"),
    ((*TEXT, "--generate", "3", "--target", "Paris"), "unknown target 'Paris' of --generate"),
    (("transfer", "a film", "-m", "zoo/bert-sentiment", "--memory-budget", "0"), "memory_budget must be a positive"),
    (("compare", "a film", "-m", "zoo/bert-sentiment", "--memory-budget", "none"), "memory_budget must be a positive"),
    ((*TEXT, "--target", " "), "--target is empty"),
    ((*TEXT, "--against", ""), "--against is empty"),
    ((*TEXT, "--threshold", "2"), "--threshold"),
    ((*TEXT, "--measure", "some"), "--measure"),
    ((*TEXT, "--no-such-option"), "--no-such-option"),
    ((*TEXT, "--guide", "nonsense"), "is no guide"),
    ((*TEXT, "--guide", "box:1,2,3"), "a box is box:LEFT,TOP,RIGHT,BOTTOM"),
    ((*TEXT, "--guide", "box:3,0,3,4"), "left < right"),
    ((*TEXT, "--guide", "none.png"), "no such file: none.png"),
    ((*TEXT, "--guide", "picture:none.png"), "no such file: none.png"),
    ((*TEXT, "--guide", "none.safetensors"), "no such file: none.safetensors"),
    ((*TEXT, "--guide", "boxes.json"), "boxes.json holds no polygon"),
    ((*TEXT, "--guide", "contrast", "--generate", "3"), "leave one out"),
    ((*TEXT, "--option", "sign"), "--option is NAME=VALUE"),
    ((*TEXT, "--option", "sign=signed", "--option", "sign=absolute"), "given twice"),
    ((*TEXT, "--option", "guide=contrast"), "give the guide with --guide"),
    (("compare", "a film", "-m", "zoo/bert-sentiment", "--guide", "picture:boxes.json"), "compare with another guide"),
    ((*TEXT, "--text", "none.txt"), "no such file: none.txt"),
    ((*TEXT, "--image", "none.png"), "no such file: none.png"),
    ((*TEXT, "--regions", "boxes.json"), "is not JSON"),
    ((*TEXT, "--generate", "3", "--answer", "yes"), "leave one out"),
    ((*TEXT, "--out", "boxes.json"), "is a file; --out needs a folder"),
    (("explain", "none.png", "-m", "zoo/vit-scenes"), "no such file: none.png"),
    (("explain", ".", "-m", "zoo/vit-scenes"), "is a folder in which nothing can be read"),
    (("explain", "-m", "zoo/vit-scenes"), "no INPUT is given"),
    (("explain", "*.png", "-m", "zoo/vit-scenes"), "no file matches *.png"),
    (("explain", "rows.csv", "-m", "zoo/vit-scenes"), "no such file: rows.csv"),
    (("explain", "--chat", "boxes.json", "-m", "zoo/bert-sentiment"), "boxes.json is not JSON"),
    ((*TEXT, "--column", "text"), "--column names a column of a .csv, .tsv or .jsonl file"),
    ((*TEXT, "--resume"), "--resume goes on with several inputs"),
    ((*TEXT, "-", "--resume"), "save it to a file"),
    ((*TEXT, "--open", "--no-page"), "leave one out"),
    ((*TEXT, "--json", "-", "--csv", "-"), "give one of them a file"),
    ((*TEXT, "--json", "x", "--csv", "./x"), "name the same file"),
    ((*TEXT, "--json", "."), "is a folder; --json needs a file"),
    ((*TEXT, "--csv", "boxes.json/x.csv"), "boxes.json is a file; --csv needs a folder"),
    (("inspect", ".", "-m", "zoo/vit-scenes"), "is a folder; give a file"),
    (("explain", "https://example.org/cat.png", "-m", "zoo/vit-scenes"), "nothing is fetched"),
    (("explain", "text", "-m", "zoo/bert-sentimental"), "did you mean 'zoo/bert-sentiment'"),
    (("explain", "text", "-m", "."), "is not a model folder"),
    (("explain", "text", "-m", "boxes.json"), "is a file; give the folder"),
    (("explain", "text", "-m", "no/such/folder"), "no such model folder"),
    (("compare", "text", "-m", "zoo/bert-sentiment", "--sites", "bloc"), "unknown site 'bloc'"),
    (("compare", "none.txt", "-m", "zoo/bert-sentiment"), "no such file: none.txt"),
    (("doctor", "zoo/bert-sentiment", "--methods", "gea"), "did you mean 'gae'"),
    (("doctor", "zoo/bert-sentiment", "--minutes", "0"), "--minutes is a time above 0, not 0"),
    (("doctor", "zoo/bert-sentiment", "--out", "boxes.json"), "is a file; --out needs a folder"),
    (("doctor", "zoo/bert-sentimental"), "did you mean 'zoo/bert-sentiment'"),
    (("rewrite", "none.png", "-m", "zoo/vit-scenes", "--to", "Bag"), "no such file: none.png"),
    (("rewrite", "none.png", "-m", "zoo/vit-scenes"), "--to is missing"),
    (("rewrite", "none.png", "-m", "zoo/vit-scenes", "--to", "Bag", "--budget", "x"), "such as 2/255"),
    (("inspect", "none.txt", "-m", "zoo/bert-sentiment"), "no such file: none.txt"),
    (("attention-vs-posthoc", "none.txt", "-m", "zoo/bert-sentiment"), "no such file: none.txt"),
    (("attention-vs-posthoc", "text", "-m", "zoo/bert-sentiment", "--lines"), "no such file: text"),
    (("attention-vs-posthoc", "text", "-m", "zoo/bert-sentiment", "--top", "0.9"), "--top is the share"),
    (
        ("attention-vs-posthoc", "text", "-m", "zoo/bert-sentiment", "--attention", "lime"),
        "'lime' reads no attention map",
    ),
    (("attention-vs-posthoc", "text", "-m", "zoo/bert-sentiment", "--posthoc", "limes"), "did you mean 'lime'"),
    (("attention-vs-posthoc", ".", "-m", "zoo/vit-scenes"), "holds no pictures"),
    (("app", "-m", "zoo/bert-sentimental"), "did you mean 'zoo/bert-sentiment'"),
    (("app", "-m", "boxes.json"), "is a file; give the folder"),
    (("app", "--host", "no.such.invalid"), "'no.such.invalid' is no address of this machine"),
    (("app", "--port", "70000"), "--port"),
    (("app",), "pip install 'regard[app]'"),
    (("evaluate", "zoo/vit-scenes", "--methods", "gae,gea"), "did you mean 'gae'"),
    (("evaluate", "zoo/vit-scenes", "--methods", "gae(sign"), "is not understood; give NAME"),
    (("evaluate", "zoo/vit-scenes", "--protocols", "a(b)"), "give each option once"),
    (("evaluate", "zoo/vit-scenes", "--data-option", "split"), "--data-option is NAME=VALUE"),
    (("evaluate", "zoo/vit-scenes", "--out", "boxes.json"), "is a file; --out needs a folder"),
    (("evaluate", "zoo/vit-scenes", "--examples", "0"), "--examples is a whole number of at least 1, not 0"),
    (("evaluate", "zoo/vit-scenes", "--seed", "-1"), "--seed is a whole number of at least 0, not -1"),
    (("evaluate", "zoo/vit-scenes", "no.csv"), "there are no data at no.csv: no such file or folder"),
    (("doctor", "zoo/vit-scenes", "vit-scenes"), "there are no data at vit-scenes; did you mean zoo/vit-scenes?"),
    (("evaluate", "."), "is not a model folder"),
    (("evaluate", "zoo/vit-scene"), "did you mean 'zoo/vit-scenes'"),
    (("results", "nothing"), "nothing holds no run"),
    (
        (*TEXT, "rollout", "--method", "gae"),
        "'rollout' is the name of a method, but stands where an input does; put commas and no blanks between methods: "
        "--method gae,rollout",
    ),
    ((*TEXT, "rollout"), "put commas and no blanks between methods: --method rollout"),
    (("evaluate", "zoo/vit-scenes", "gae", "--methods", "random,"), "between methods: --methods random,gae"),
    (("doctor", "zoo/vit-scenes", "gae", "--methods", "lime"), "between methods: --methods lime,gae"),
    (
        ("attention-vs-posthoc", "text", "lime", "-m", "zoo/bert-sentiment", "--posthoc", "gradient"),
        "between methods: --posthoc gradient,lime",
    ),
    (("heads", "text", "-m", "zoo/bert-sentiment", "--out", "x.png"), "ends in .html, or a folder; x.png does not"),
    (
        ("heads", "text", "-m", "zoo/bert-sentiment", "--out", "boxes.json/x"),
        "boxes.json is a file; --out needs a folder",
    ),
]
POISONED = """
import sys
for name in ("torch", "numpy", "transformers", "PIL", "matplotlib", "gradio"):
    sys.modules[name] = None  # importing it raises
"""
ONE = (
    POISONED
    + """
sys.argv = ["regard", *sys.argv[1:]]
from regard.__main__ import main
main()
"""
)
ONE_AFTER_ANOTHER = (
    POISONED
    + """
import contextlib, io, json, os
from regard.__main__ import main
for number, arguments in enumerate(json.load(sys.stdin)):
    os.makedirs(f"{number}")
    os.chdir(f"{number}")
    open("boxes.json", "w").write("[[0, 0,")
    sys.argv, code, said = ["regard", *arguments], 0, io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            main()
        except SystemExit as ended:
            code = ended.code
    print(json.dumps([code, said.getvalue(), sorted(os.listdir("."))]), flush=True)
    os.chdir("..")
"""
)


def run(*arguments, cwd):
    return subprocess.run([sys.executable, "-c", ONE, *arguments], capture_output=True, text=True, cwd=cwd, check=False)


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    """What each of the calls ends with, says, and leaves in its folder: one process makes them all, each in its own folder."""
    done = subprocess.run(
        [sys.executable, "-c", ONE_AFTER_ANOTHER],
        input=json.dumps([arguments for arguments, _ in REFUSED]),
        capture_output=True,
        text=True,
        cwd=tmp_path_factory.mktemp("refused"),
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("number", range(len(REFUSED)), ids=[" ".join(arguments[1:]) for arguments, _ in REFUSED])
def test_refused(number, refused):
    code, said, left = refused[number]
    assert code == 2, said
    assert REFUSED[number][1] in " ".join(said.split())
    assert "Traceback" not in said
    assert left == ["boxes.json"]


@pytest.mark.parametrize(
    "arguments", [("--version",), ("--help",), ("methods",), ("zoo",), ("explain", "--help"), ("app", "--help")]
)
def test_said(arguments, tmp_path):
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_a_right_call_needs_what_is_poisoned(tmp_path):
    done = run(*TEXT, cwd=tmp_path)
    assert done.returncode != 0
    assert "matplotlib" in done.stderr or "torch" in done.stderr
