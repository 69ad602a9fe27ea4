"""VQA's questions about pictures, and samples in tars: read from small real files; what is hostile is an example's error."""

import io
import json
import pickle
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

import regard
from regard.errors import InputError, Misuse
from regard.evaluation.data.sources import data_set
from support.pairs import save
from support.runs import left_behind, small, table


@pytest.fixture(scope="module")
def vilt(tmp_path_factory):
    return save("vilt-vqa", tmp_path_factory.mktemp("vilt"))


def packed(seed=0, size=(40, 30), kind="PNG"):
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, kind)
    return written.getvalue()


def question(number, picture, text):
    return {"question_id": number, "image_id": picture, "question": text}


def annotation(number, picture, told, answers=()):
    answers = [{"answer_id": i, "answer": a, "answer_confidence": "yes"} for i, a in enumerate(answers, 1)]
    about = {"question_type": "what", "answer_type": "other", "answers": answers}
    return about | {"question_id": number, "image_id": picture} | ({"multiple_choice_answer": told} if told else {})


HEAD = {"info": {}, "license": {}, "data_type": "mscoco", "data_subtype": "val2014"}


def vqa(home, questions, annotations=None):
    """The files as visualqa.org publishes them."""
    home.mkdir(exist_ok=True)
    file = home / "v2_OpenEnded_mscoco_val2014_questions.json"
    file.write_text(json.dumps(HEAD | {"task_type": "Open-Ended", "questions": questions}))
    if annotations is not None:
        (home / "v2_mscoco_val2014_annotations.json").write_text(json.dumps(HEAD | {"annotations": annotations}))
    (home / "val2014").mkdir(exist_ok=True)
    return file


def asked(home):
    questions = [
        question(420, 42, "what is on the mat?"),
        question(421, 42, "two cats?"),
        question(730, 73, "  "),
        question(731, 73, "what is red?"),
        question(732, 73, "is the cat left?"),
        question(990, 99, "what is the picture?"),
        question(991, "../x", "what is the picture?"),
        question(733, 73, "what is left?"),
    ]
    annotations = [
        annotation(421, 42, "", ["two", "one", "two"]),
        annotation(420, 42, "Red", ["red", "red", "one"]),
        annotation(730, 73, "one"),
        annotation(731, 73, "2"),
        annotation(732, 73, "one"),
        annotation(990, 99, "one"),
        annotation(991, 99, "one"),
    ]
    file = vqa(home, questions, annotations)
    (home / "val2014" / "COCO_val2014_000000000042.jpg").write_bytes(packed(1, kind="JPEG"))
    (home / "val2014" / "COCO_val2014_000000000073.jpg").write_bytes(packed(2, kind="JPEG"))
    return file


def test_questions_about_pictures(tmp_path, vilt):
    reader = regard.load(vilt)
    data = data_set(str(asked(tmp_path / "vqa")))
    assert (data.kind, data.labelled, data.masked) == ("vqa", True, False)
    found = {e.name: e for e in (data.example(reader, i) for i in range(len(data)))}
    good = found["question 420"]
    assert (good.label, good.group, good.error) == (2, "picture 42", "")
    assert good.raw("input_ids").text == "what is on the mat?"
    assert good.raw("pixel_values").pixels.shape == (30, 40, 3)
    assert found["question 421"].label == 1
    assert {name.split()[1]: e.error for name, e in found.items() if e.error} == {
        "730": "InputError: question 730 is empty",
        "731": "UnknownName: the model has no answer '2'",  # and not the answer number 2
        "990": f"InputError: {data.home} holds no COCO_val2014_000000000099.jpg, which question 990 is about",
        "991": "InputError: image_id is '../x', and no number",
        "733": "InputError: v2_mscoco_val2014_annotations.json tells no answer to question 733",
    }
    copied, copied_digest = pickle.loads(pickle.dumps(data)), data.digest()
    assert (copied.digest(), len(copied)) == (copied_digest, 8)
    (data.home / "COCO_val2014_000000000042.jpg").write_bytes(packed(3, kind="JPEG"))
    assert data.digest() != copied_digest
    assert data_set(str(tmp_path / "vqa" / data.source), labels={"2": 1}).number_of("2", reader) == 1


def test_a_run_over_questions_goes_on_and_is_refused_where_a_picture_changed(tmp_path, vilt):
    file = asked(tmp_path / "vqa")
    how = {"model": str(vilt), "data": f"vqa:{file}", "methods": ["random", "gae"], "examples": None}
    protocols = ["perturbation(unit=token,fill=black,steps=[0.5],auc=[0,0.5])", "attribution-error(explained=true)"]
    found = small(tmp_path / "run", protocols=protocols, **how)
    assert {e for e, _, _ in found.errors} == {f"question {n}" for n in (730, 731, 733, 990, 991)}
    of = [s for s in found.summaries if s.title == "gae" and s.metric in ("aopc", "relative_error")]
    assert {s.protocol.kind: (s.examples, s.errors) for s in of} == {
        "perturbation": (3, 5),
        "attribution-error": (3, 5),
    }
    before = table(tmp_path / "run" / "rows")
    (tmp_path / "run" / "rows" / "shard-000001.parquet").unlink()
    small(tmp_path / "run", protocols=protocols, **how)
    assert before.equals(table(tmp_path / "run" / "rows"))
    assert left_behind(tmp_path / "run") == []
    (file.parent / "val2014" / "COCO_val2014_000000000073.jpg").write_bytes(packed(4, kind="JPEG"))
    with pytest.raises(Misuse, match="the content of the data changed"):
        small(tmp_path / "run", protocols=protocols, **how)


def test_questions_without_annotations_are_judged_by_the_predicted_answer(tmp_path, vilt):
    file = vqa(tmp_path / "vqa", [question(1, 42, "what is red?")])
    (file.parent / "val2014" / "000000000042.png").write_bytes(packed())
    data = data_set(f"vqa:{file}")
    example = data.example(regard.load(vilt), 0)
    assert (data.labelled, example.label, example.error) == (False, None, "")
    for broken, why in (
        ("[]", "holds no list 'questions'"),
        ("{", "JSONDecodeError"),
        ('{"questions": [1]}', "TypeError"),
    ):
        file.write_text(broken)
        with pytest.raises(InputError, match=why):
            data_set(str(file))
    with pytest.raises(InputError, match="give a file of VQA's annotations"):
        data_set(str(vqa(tmp_path / "vqa", [question(1, 42, "what?")])), annotations=str(tmp_path / "none.json"))
    with pytest.raises(Misuse, match="two examples are called 'question 1'"):
        data_set(str(vqa(tmp_path / "vqa", [question(1, 42, "what?")] * 2)))


# -- tars ----------------------------------------------------------------------------------------------------------------


def tar(path, members, mode="w"):
    """A tar of (name, bytes), or of members with a kind of their own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as made:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                made.addfile(info, io.BytesIO(content))
            else:
                for key, value in content.items():
                    setattr(info, key, value)
                made.addfile(info)
    return path


def errors(data, reader):
    return {e.name: e.error for e in (data.example(reader, i) for i in range(len(data))) if e.error}


def test_samples_of_pictures_in_tars(tmp_path, vit):
    for number in range(3):
        tar(
            tmp_path / f"shard-{number:03}.tar",
            [
                ("__meta__/index.json", b"{}"),
                ("./train/a.PNG", packed(number)),
                ("./train/a.cls", b" 3\n"),
                ("./train/a.txt", b"a coat"),
                ("train/b.json", json.dumps({"label": vit.labels[1], "more": [1]}).encode()),
                ("train/b.jpg", packed(number + 10, kind="JPEG")),
                ("train/b.pkl", b"cos\nsystem\n(S'touch /tmp/owned'\ntR."),
                ("train/b.pyd", b"\x80\x04."),
            ],
        )
    data = data_set(str(tmp_path))
    assert (data.kind, len(data), data.labelled) == ("webdataset", 6, True)
    found = [data.example(vit, i) for i in range(6)]
    assert [e.name for e in found[2:4]] == ["shard-001.tar: ./train/a", "shard-001.tar: train/b"]
    assert [(e.label, e.error) for e in found] == [(3, ""), (1, "")] * 3
    expected = np.array(Image.open(io.BytesIO(packed(2))))
    assert torch.equal(found[4].raw("pixel_values").pixels, torch.from_numpy(expected))
    copied = pickle.loads(pickle.dumps(data))
    for i in (5, 0, 3):  # from the middle, and across tars
        assert torch.equal(
            copied.example(vit, i).reading.inputs["pixel_values"], found[i].reading.inputs["pixel_values"]
        )
    some = data_set(f"{tmp_path}/shard-{{001..002}}.tar")
    assert [some.name_of(i) for i in range(4)] == [data.name_of(i) for i in range(2, 6)]
    assert len(data_set(f"webdataset:{tmp_path}/shard-00[02].tar")) == 4
    assert len(data_set(str(tmp_path / "shard-000.tar"))) == 2
    with pytest.raises(InputError, match=r"there is no tar .*shard-003\.tar"):
        data_set(f"webdataset:{tmp_path}/shard-{{000..003}}.tar")
    with pytest.raises(Misuse, match=r"runs backwards; write \{001\.\.002\}"):
        data_set(f"webdataset:{tmp_path}/shard-{{002..001}}.tar")
    with pytest.raises(InputError, match="there are no tars at"):
        data_set(f"webdataset:{tmp_path}/none-*.tar")
    before = data.digest()
    tar(tmp_path / "shard-002.tar", [("a.png", packed(9))])
    assert data_set(str(tmp_path)).digest() != before


def test_samples_of_texts_in_a_tar(tmp_path, bert):
    members = [
        ("1.txt", b"a fine film"), ("1.json", b'{"mood": "positive"}'),
        ("2.txt", b"dull"), ("2.json", b'{"mood": 0}'),
        ("3.txt", b" "), ("3.json", b"{}"),
        ("4.txt", b"\xff\xfe"),
        ("5.json", b"[1]"), ("5.txt", b"so so"),
        ("6.png", packed()),
        ("7.txt", b"plain"),
    ]  # fmt: skip
    data = data_set(str(tar(tmp_path / "texts.tar", members)), label="mood")
    found = [data.example(bert, i) for i in range(len(data))]
    assert [e.label for e in found] == [1, 0, None, None, None, None, None]
    assert data.labelled
    assert not data_set(str(tmp_path / "texts.tar")).labelled
    assert errors(data, bert) == {
        "texts.tar: 3": "InputError: the text is empty",
        "texts.tar: 4": "InputError: the text of texts.tar: 4 is not UTF-8 text",
        "texts.tar: 5": "InputError: the .json of texts.tar: 5 is no JSON object",
        "texts.tar: 6": "InputError: texts.tar: 6 has no text (.txt)",
    }


def test_pictures_with_questions_in_a_tar(tmp_path, vilt):
    members = [
        ("1.jpg", packed(kind="JPEG")),
        ("1.txt", b"what is red?"),
        ("1.cls", b"2"),
        ("2.jpg", packed(kind="JPEG")),
    ]
    data = data_set(str(tar(tmp_path / "pairs.tar", members)))
    reader = regard.load(vilt)
    found = data.example(reader, 0)
    assert (found.label, found.raw("input_ids").text, found.error) == (2, "what is red?", "")
    assert errors(data, reader) == {"pairs.tar: 2": "InputError: pairs.tar: 2 has no text (.txt)"}


def test_of_several_pictures_one_must_be_named(tmp_path, vit):
    members = [("1.jpg", packed(1, kind="JPEG")), ("1.png", packed(2)), ("2.seg.png", packed(3)), ("2.png", packed(4))]
    path = tar(tmp_path / "two.tar", members)
    assert errors(data_set(str(path)), vit) == {
        "two.tar: 1": "InputError: 1 has two pictures; say with picture= which ending is read"
    }
    data = data_set(str(path), picture="seg.png")
    assert errors(data, vit) == {"two.tar: 1": "InputError: two.tar: 1 has no picture (.seg.png)"}
    expected = np.array(Image.open(io.BytesIO(packed(3))))
    assert torch.equal(data.example(vit, 1).raw("pixel_values").pixels, torch.from_numpy(expected))


def test_hostile_tars_are_rows_with_their_error(tmp_path, vit):
    """Absolute names, names that lead out, links, devices, lies about sizes, a bomb, a tar that ends early, no tar at all."""
    home = tmp_path / "tars"
    tar(
        home / "a.tar",
        [
            ("good.png", packed(1)),
            ("/etc/absolute.png", packed(2)),
            ("../outside.png", packed(3)),
            ("soft.png", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}),
            ("hard.png", {"type": tarfile.LNKTYPE, "linkname": "good.png"}),
            ("device.png", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5}),
            ("pipe.png", {"type": tarfile.FIFOTYPE}),
            ("../../no-ending", b"x"),
            ("plain-link", {"type": tarfile.SYMTYPE, "linkname": "../.."}),
            ("cut.png", packed(4)[:500]),
            ("bomb.png", bomb()),
            ("text.png", b"this is a text"),
            ("pickled.pkl", b"cos\nsystem\n(S'touch owned'\ntR."),
            ("much.cls", b"1" * 5000),
            ("folder.png", {"type": tarfile.DIRTYPE}),
        ],
    )
    whole = tar(home / "b.tar", [("one.png", packed(5)), ("two.png", packed(6))]).read_bytes()
    begins = whole.index(b"two.png")
    (home / "b.tar").write_bytes(whole[: begins + 900])  # within the second picture
    (home / "e.tar").write_bytes(whole[: begins + 100])  # within its header
    (home / "f.tar").write_bytes(whole[:begins])  # before it
    (home / "g.tar").write_bytes(whole[:begins] + bytes(7) + whole[begins:])  # seven bytes too many
    (home / "c.tar").write_bytes(b"this is no tar at all")
    (home / "d.tar").write_bytes(b"")
    data = data_set(str(home))
    found = errors(data, vit)
    assert {name.partition(": ")[2] for name in (data.name_of(i) for i in range(len(data)))} - {
        n.partition(": ")[2] for n in found
    } == {"good", "one"}
    for name, why in {
        "a.tar: /etc/absolute": "leads out of the tar",
        "a.tar: ../outside": "leads out of the tar",
        "a.tar: soft": "soft.png is a link or a device, and no file",
        "a.tar: hard": "is a link or a device",
        "a.tar: device": "is a link or a device",
        "a.tar: pipe": "is a link or a device",
        "a.tar: ../../no-ending": "leads out of the tar",
        "a.tar: plain-link": "is a link or a device",
        "a.tar: cut": "cut is damaged or of an unknown kind: image file is truncated",
        "a.tar: bomb": "has far more than the 25 megapixels that are judged",
        "a.tar: text": "is not a picture",
        "a.tar: pickled": "has no picture",
        "a.tar: much": "has 5,000 bytes, and at most 4,096 are read",
        "b.tar: after two": "ends early or is damaged",
        "e.tar: after one": "ends early or is damaged",
        "f.tar: after one": "there is no mark of its end where it ends",
        "g.tar: after one": "ends early or is damaged",
        "c.tar: (nothing)": "is no tar that can be read",
        "d.tar: (nothing)": "is no tar that can be read",
    }.items():
        assert why in found[name], (name, found)
    assert not [*tmp_path.rglob("owned")]
    rows = small(tmp_path / "run", data=str(home), methods=["random"], protocols=["attribution-error"], examples=None)
    assert rows.complete
    assert {e for e, _, _ in rows.errors} == set(found)
    assert sorted(p.name for p in home.iterdir()) == [f"{x}.tar" for x in "abcdefg"]  # nothing was unpacked


def bomb():
    """A few kB that are 400 megapixels."""
    written = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(written, "PNG")
    return written.getvalue()


def test_a_sparse_member_and_a_packed_tar_are_refused(tmp_path, vit):
    header = tarfile.TarInfo("sparse.png").tobuf(tarfile.GNU_FORMAT)
    sparse = bytearray(header)
    sparse[156:157] = tarfile.GNUTYPE_SPARSE
    sparse[386:398] = sparse[398:410] = b"00000000000\0"  # one hole of no bytes
    sparse[483:495] = b"77777777777\0"  # 8 GB that are not there
    sparse[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(sparse))[0]
    path = tmp_path / "sparse.tar"
    path.write_bytes(bytes(sparse) + bytes(1024))
    assert "is a sparse file, which is not read" in next(iter(errors(data_set(str(path)), vit).values()))
    tar(tmp_path / "packed.tar.gz", [("a.png", packed())], "w:gz")
    with pytest.raises(InputError, match=r"packed\.tar\.gz is packed, and cannot be read from its middle; unpack it"):
        data_set(f"webdataset:{tmp_path / 'packed.tar.gz'}")
    tar(tmp_path / "twice.tar", [("a.png", packed()), ("b.png", packed()), ("a.txt", b"")])
    with pytest.raises(Misuse, match="holds the sample a in two places"):
        data_set(str(tmp_path / "twice.tar"))
