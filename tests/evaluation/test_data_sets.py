"""Each kind of data set from a small real file; what cannot be read is an example with its error."""

import csv
import gzip
import io
import json
import os
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from regard import zoo
from regard.errors import InputError, Misuse, UnknownName
from regard.evaluation import Segmentation, read_eraser
from regard.evaluation.data import dataset
from regard.evaluation.data.bundled import Bundled
from regard.evaluation.data.sources import KINDS, data_set
from support.runs import small

SHARED = Path(os.environ.get("REGARD_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


def picture(path, seed=0, size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def mask(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, np.uint8)).save(path)


def every(data, reader):
    """Its examples; read again from a copy of it in another process's shoes."""
    found = [data.example(reader, i) for i in range(len(data))]
    assert len({e.name for e in found}) == len(found)
    assert [e.name for e in found] == [data.name_of(i) for i in range(len(data))]
    copied = pickle.loads(pickle.dumps(data))
    assert copied.digest() == data.digest()
    for number in (len(found) - 1, 0):
        again = copied.example(reader, number)
        assert (again.name, again.label, again.error) == (found[number].name, found[number].label, found[number].error)
        for name, tensor in again.reading.inputs.items():
            assert torch.equal(tensor, found[number].reading.inputs[name])
    return found


def test_a_folder_of_pictures(tmp_path, vit):
    names = vit.labels
    first = picture(tmp_path / names[2] / "b.png", 1)
    picture(tmp_path / names[0] / "deep" / "a.png", 2)
    picture(tmp_path / "7" / "c.png", 3)
    picture(tmp_path / "Unicorn" / "d.png", 4)
    picture(tmp_path / "none.png", 5)
    (tmp_path / names[2] / ".hidden.png").write_bytes(b"")
    data = data_set(str(tmp_path))
    found = {e.name: e for e in every(data, vit)}
    assert found[f"{names[2]}/b.png"].label == 2
    assert torch.equal(found[f"{names[2]}/b.png"].raw("pixel_values").pixels, torch.from_numpy(first))
    assert found[f"{names[0]}/deep/a.png"].label == 0
    assert found["7/c.png"].label == 7
    assert found["none.png"].label is None
    assert not found["none.png"].error
    assert found["Unicorn/d.png"].error.startswith("UnknownName: unknown label 'Unicorn'")
    assert len(found) == 5
    assert data_set(f"images:{tmp_path}", labels={"Unicorn": 3}).number_of("Unicorn", vit) == 3
    assert (data.kind, data.labelled, data.masked) == ("images", True, False)
    before = data.digest()
    picture(tmp_path / "7" / "c.png", 30)
    assert data.digest() != before


def test_pictures_with_masks(tmp_path, vit):
    for name in ("two", "several", "missing", "small", "broken"):
        picture(tmp_path / "images" / f"{name}.jpg", 1)
    values = np.zeros((30, 40))
    values[:10] = 255
    mask(tmp_path / "masks" / "two.png", values)
    values[10:15], values[15:30, :20] = 3, 7
    mask(tmp_path / "masks" / "several.png", values)
    mask(tmp_path / "masks" / "small.png", values[:10])
    (tmp_path / "masks" / "broken.png").write_text("no picture")
    found = {e.name: e for e in every(data_set(str(tmp_path)), vit)}
    assert int(found["two.jpg"].mask.sum()) == 400
    assert found["two.jpg"].ignore is None
    assert "holds the values 3, 7, 255; say with object=" in found["several.jpg"].error
    assert found["missing.jpg"].error == f"InputError: there is no mask of missing.jpg in {tmp_path / 'masks'}"
    assert "broken.png is not a picture" in found["broken.jpg"].error
    data = data_set(f"masks:{tmp_path}", object="largest", ignore=255)
    found = {e.name: e for e in every(data, vit)}
    assert torch.equal(found["several.jpg"].mask, torch.from_numpy(values == 7))
    assert torch.equal(found["several.jpg"].ignore, torch.from_numpy(values == 255))
    assert not found["two.jpg"].mask.any()  # all that it shows is ignored
    assert int(data_set(str(tmp_path), object=3).example(vit, 2).mask.sum()) == 200
    with pytest.raises(Misuse, match="object= is a value"):
        data_set(str(tmp_path), object="lagrest")
    rows = small(tmp_path / "run", data=data, methods=["random"], protocols=["segmentation"], examples=None)
    assert "the mask is (10, 40) and its picture (30, 40)" in dict(r[:2] for r in rows.errors)["small.jpg"]


def test_imagenet_segmentation(tmp_path, vit):
    """A file as MATLAB 7.3 writes it: cells are references, arrays are transposed."""
    h5py = pytest.importorskip("h5py")
    file = tmp_path / "gtsegs_ijcv.mat"
    pixels = [np.random.default_rng(i).integers(0, 255, (20 + i, 30, 3), dtype=np.uint8) for i in range(3)]
    with h5py.File(file, "w") as made:
        images, masks = [], []
        for i, image in enumerate(pixels):
            images.append(made.create_dataset(f"#refs#/i{i}", data=image.transpose(2, 1, 0)).ref)
            drawn = np.zeros(image.shape[:2], np.uint8)
            drawn[: 5 + i] = 1
            inner = made.create_dataset(f"#refs#/m{i}", data=drawn.T).ref
            masks.append(made.create_dataset(f"#refs#/c{i}", data=[[inner]], dtype=h5py.ref_dtype).ref)
        made.create_dataset("value/img", data=[[r] for r in images], dtype=h5py.ref_dtype)
        made.create_dataset("value/gt", data=[[r] for r in masks], dtype=h5py.ref_dtype)
    data = data_set(str(file))
    for i, example in enumerate(every(data, vit)):
        assert torch.equal(example.raw("pixel_values").pixels, torch.from_numpy(pixels[i]))
        assert (int(example.mask.sum()), tuple(example.mask.shape)) == ((5 + i) * 30, pixels[i].shape[:2])
        assert bool(example.mask[0].all())
        assert example.label is None
    found = small(tmp_path / "run", data=data, methods=["random"], protocols=["segmentation"], examples=2)
    assert found.protocols == [Segmentation("predicted")]
    assert found.errors == []
    old = tmp_path / "old.mat"
    old.write_bytes(b"MATLAB 5.0 MAT-file")
    with pytest.raises(InputError, match=r"old\.mat is not gtsegs_ijcv\.mat"):
        data_set(str(old))


def test_coco(tmp_path, vit):
    drawing = pytest.importorskip("pycocotools.mask")
    first, second = vit.labels[:2]
    for name in ("a.png", "b.png"):
        picture(tmp_path / "images" / name)
    drawn = np.zeros((30, 40), np.uint8, order="F")
    drawn[5:10, 5:10] = 1
    packed = drawing.encode(drawn)
    square = [0, 0, 10, 0, 10, 10, 0, 10]
    made = {
        "images": [{"id": i, "file_name": n, "height": 30, "width": 40} for i, n in enumerate(["a.png", "b.png", "../c.png"])],
        "categories": [{"id": 5, "name": first}, {"id": 9, "name": second}, {"id": 11, "name": "unicorn"}],
        "annotations": [
            {"image_id": 0, "category_id": 5, "segmentation": [square]},
            {"image_id": 0, "category_id": 5, "segmentation": [[20, 20, 30, 20, 30, 25]]},
            {"image_id": 0, "category_id": 5, "iscrowd": 1, "segmentation": {"size": [30, 40], "counts": [0, 60, 1140]}},
            {"image_id": 0, "category_id": 9, "segmentation": packed | {"counts": packed["counts"].decode()}},
            {"image_id": 1, "category_id": 11, "segmentation": [square]},
            {"image_id": 1, "category_id": 5, "iscrowd": 1, "segmentation": [square]},
            {"image_id": 2, "category_id": 5, "segmentation": [square]},
        ],
    }  # fmt: skip
    file = tmp_path / "instances.json"
    file.write_text(json.dumps(made))
    with pytest.raises(InputError, match="leads out of the folder"):
        data_set(str(file)).digest()
    made["annotations"].pop()
    file.write_text(json.dumps(made))
    one, other, strange = every(data_set(str(file)), vit)
    assert [e.name for e in (one, other, strange)] == [f"a.png: {first}", f"a.png: {second}", "b.png: unicorn"]
    assert (one.error, other.error) == ("", "")
    assert (one.label, other.label, one.group, other.group) == (0, 1, "a.png", "a.png")
    assert bool(one.mask[:10, :10].all())
    assert 100 < int(one.mask.sum()) < 150
    crowd = torch.zeros(30, 40, dtype=torch.bool)
    crowd[:, :2] = True  # run lengths go down the columns
    assert torch.equal(one.ignore, crowd & ~one.mask)
    assert torch.equal(other.mask, torch.from_numpy(drawn).bool())
    assert other.ignore is None
    assert "unknown label 'unicorn'" in strange.error
    assert len(data_set(str(file), categories=[second])) == 1
    with pytest.raises(UnknownName, match="did you mean 'unicorn'"):
        data_set(str(file), categories=["unicron"])
    for broken in ("[]", '{"images": 3}', "{", json.dumps(made | {"annotations": []})):
        file.write_text(broken)
        with pytest.raises(InputError):
            data_set(str(file))


DOCUMENTS = [
    {"id": "x", "text": "a wonderful film", "label": 1, "rationales": [[1, 2]]},
    {"id": "x", "text": "a dull film", "label": 0, "rationales": [[1, 2]]},
    {"id": "y", "text": "a film", "label": 1, "rationales": [[5, 9]]},
]


@pytest.mark.parametrize("zipped", [False, True])
def test_eraser(tmp_path, bert, zipped):
    lines = "\n\n".join(json.dumps(d) for d in DOCUMENTS) + "\nno json\n"
    opened = gzip.open if zipped else open
    with opened(tmp_path / ("test.jsonl.gz" if zipped else "test.jsonl"), "wt") as file:
        file.write(lines)
    data = data_set(str(tmp_path))
    found = every(data, bert)
    assert [e.name for e in found] == ["line 1", "line 3", "line 5", "line 6"]
    assert [bool(e.error) for e in found] == [False, False, True, True]
    assert found[1].raw("input_ids").text == "a dull film"
    assert [data.document(bert, i).evidence for i in (1, 0)] == [((1, 2),), ((1, 2),)]
    rows = small(tmp_path / "run", model="zoo/bert-sentiment", data=data, methods=["random", "gae"],
                 protocols=["rationale", "perturbation"], examples=None)  # fmt: skip
    called = "test.jsonl" + ".gz" * zipped
    assert [(name, why) for name, why, _ in rows.errors] == [
        ("line 5", f"InputError: {called}, line 5: the rationale [5, 9] does not lie within its 2 tokens"),
        ("line 6", f"InputError: {called}, line 6 is not JSON (Expecting value: line 1 column 1 (char 0))"),
    ]
    assert {(s.protocol.kind, s.examples, s.errors) for s in rows.summaries if s.metric in ("auprc", "aopc")} == {
        ("rationale", 2, 2), ("perturbation", 2, 2),
    }  # fmt: skip
    with pytest.raises(InputError, match="has no split 'val'"):
        data_set(f"eraser:{tmp_path}", split="val")


def test_texts_in_a_csv_file(tmp_path, bert):
    file = tmp_path / "reviews.csv"
    rows = [
        ["a, fine\nfilm", "positive", "1"],
        ['"dull"', "negative", "1"],
        ["", "negative", "2"],
        ["so so", "meh", "2"],
        ["plain", "", "3"],
    ]
    with file.open("w", newline="", encoding="utf-8-sig") as written:
        csv.writer(written).writerows([["text", "label", "film"], *rows])
        written.write("one field\n")
    found = every(data_set(str(file), group="film"), bert)
    assert [e.name for e in found] == [f"line {n}" for n in (2, 4, 5, 6, 7, 8)]
    assert [e.raw("input_ids").text for e in found[:2]] == ["a, fine\nfilm", '"dull"']
    assert [(e.label, e.group) for e in found[:2]] == [(1, "1"), (0, "1")]
    assert found[2].error == "InputError: reviews.csv, line 5 has nothing in the column 'text'"
    assert "unknown label 'meh'" in found[3].error
    assert (found[4].label, found[4].error) == (None, "")
    assert found[5].error == "InputError: reviews.csv, line 8 has 1 fields for 3 columns"
    with pytest.raises(UnknownName, match="did you mean 'film'"):
        data_set(str(file), column="flim")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="name the one of the texts or paths with column="):
        data_set(str(tmp_path / "other.csv"))
    for name, said in (
        ("one.jpg", "is one picture; give the folder"),
        ("texts.txt", "put its texts into a .csv or .jsonl"),
    ):
        (tmp_path / name).write_text("x")
        with pytest.raises(InputError, match=said):
            data_set(str(tmp_path / name))


@pytest.mark.parametrize(("name", "between"), [("r.csv", ";"), ("r.csv", "\t"), ("r.tsv", "\t")])
def test_fields_that_semicolons_or_tabs_part(tmp_path, bert, name, between):
    rows = [["text", "label"], ["a fine, long film", "positive"], ["dull", "negative"]]
    (tmp_path / name).write_text("\n".join(between.join(row) for row in rows))
    found = every(data_set(str(tmp_path / name)), bert)
    assert [(e.raw("input_ids").text, e.label) for e in found] == [("a fine, long film", 1), ("dull", 0)]


def test_texts_and_pictures_in_json_lines(tmp_path, bert, vit):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"text": "a fine film", "label": 1}\n\n[1]\n{"text": 3}\n\xff\n{"text": "bad", "label": NaN}\n')
    found = every(data_set(str(file)), bert)
    assert [e.name for e in found] == [f"line {n}" for n in (1, 3, 4, 5, 6)]
    assert [e.label for e in found] == [1, None, None, None, None]
    assert [bool(e.error) for e in found] == [False, True, True, True, False]
    assert "line 5 is not UTF-8 text" in found[3].error
    picture(tmp_path / "pictures" / "a.png")
    picture(tmp_path.parent / "outside.png")
    named = [{"image": "pictures/a.png", "label": 4}, {"image": "../outside.png"}, {"image": "none.png"}]
    file.write_text("\n".join(map(json.dumps, named)))
    data = data_set(str(file))
    good, outside, missing = every(data, vit)
    assert (good.label, good.error) == (4, "")
    assert "leads out of the folder" in outside.error
    assert "no such picture" in missing.error
    before = data.digest()
    picture(tmp_path / "pictures" / "a.png", 9)
    assert data.digest() != before


def saved(folder, columns, features):
    """A data set as `datasets.save_to_disk` writes it."""
    arrow = pytest.importorskip("pyarrow")
    folder.mkdir(parents=True)
    table = arrow.table(columns)
    for i in range(2):  # two files
        with (
            arrow.OSFile(str(folder / f"data-{i:05}-of-00002.arrow"), "wb") as file,
            arrow.ipc.new_stream(file, table.schema) as stream,
        ):
            stream.write_table(table.slice(i * 2, 2), max_chunksize=1)
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    files = [{"filename": f"data-{i:05}-of-00002.arrow"} for i in range(2)]
    (folder / "state.json").write_text(json.dumps({"_data_files": files, "_split": "train"}))


def test_a_saved_hugging_face_dataset(tmp_path, bert, vit):
    features = {
        "text": {"dtype": "string", "_type": "Value"},
        "label": {"names": ["bad", "positive"], "_type": "ClassLabel"},
    }
    saved(tmp_path / "all" / "train", {"text": ["one", "two", "", "four"], "label": [1, 1, 1, 0]}, features)
    (tmp_path / "all" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    with pytest.raises(Misuse, match="holds the splits train; name one with split="):
        data_set(str(tmp_path / "all"))
    found = every(data_set(str(tmp_path / "all"), split="train"), bert)
    assert [e.label for e in found] == [1, 1, None, None]
    assert [e.raw("input_ids").text for e in found[:2]] == ["one", "two"]
    assert found[2].error == "InputError: row 2 has nothing in the column 'text'"
    assert "unknown label 'bad'" in found[3].error
    bytes_of = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), 9, np.uint8)).save(bytes_of, "PNG")
    images = [{"bytes": b, "path": None} for b in (bytes_of.getvalue(), b"no picture", None, bytes_of.getvalue())]
    features = {"image": {"_type": "Image"}, "label": {"dtype": "int64", "_type": "Value"}}
    saved(tmp_path / "pictures", {"image": images, "label": [3, 3, 3, 77]}, features)
    good, bad, empty, strange = every(data_set(str(tmp_path / "pictures")), vit)
    assert (good.label, int(good.raw("pixel_values").pixels.max())) == (3, 9)
    assert "the picture of row 1 is not a picture" in bad.error
    assert "row 2 has an empty picture" in empty.error
    assert "there is no class 77; the model has 8" in strange.error
    (tmp_path / "pictures" / "state.json").write_text('{"_data_files": [{"filename": "../x.arrow"}]}')
    with pytest.raises(InputError, match="leads out of the folder"):
        data_set(str(tmp_path / "pictures"))


def test_the_zoos_own(vit, bert):
    scenes = zoo.scenes()
    data = data_set("zoo/vit-scenes")
    assert len(every(data, vit)) == len(scenes) == 200
    one = data.example(vit, 150)
    assert (one.label, one.other) == tuple(scenes.labels[150].tolist())
    assert torch.equal(one.mask, scenes.masks[150, 0])
    data = data_set("zoo/bert-sentiment")
    sentence, document = zoo.sentences()[3], data.document(bert, 3)
    assert document.text == sentence.text
    assert [sentence.text[slice(*document.words[i])] for a, b in document.evidence for i in range(a, b)]
    assert (document.label, data.example(bert, 3).label) == (1, 1)
    with pytest.raises(UnknownName):
        Bundled(name="zoo/clip-scenes")
    assert set(KINDS) == {
        "zoo",
        "images",
        "masks",
        "gtsegs",
        "coco",
        "eraser",
        "table",
        "hf",
        "vqa",
        "webdataset",
        "atoms",
    }


def test_a_poisoned_data_set_finishes_and_its_bad_examples_are_rows(tmp_path, vit):
    """A truncated JPEG, a text named .png, an empty file, 50 megapixels, a mask of another size, a class out of range."""
    home, name = tmp_path / "images", vit.labels[0]
    full = np.zeros((30, 40))
    full[5:20, 5:20] = 1
    for stem in ("good", "cut", "wrong", "other"):
        picture(home / name / f"{stem}.jpg", len(stem))
        mask(tmp_path / "masks" / name / f"{stem}.png", full if stem != "wrong" else full[:9])
    whole = (home / name / "cut.jpg").read_bytes()
    (home / name / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (home / name / "text.png").write_text("this is a text")
    (home / name / "empty.png").write_bytes(b"")
    Image.new("L", (10_000, 5_000)).save(home / name / "huge.png")
    picture(home / "99" / "strange.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = small(tmp_path / "run", data=str(tmp_path), protocols=["segmentation", "perturbation"], examples=None)
    errors = {e: why for e, why, _ in found.errors}
    assert "truncated" in errors[f"{name}/cut.jpg"]
    assert "is not a picture" in errors[f"{name}/text.png"]
    assert "is empty (0 bytes)" in errors[f"{name}/empty.png"]
    assert "has 50 megapixels, and at most 25 are judged" in errors[f"{name}/huge.png"]
    assert "there is no class 99" in errors["99/strange.png"] or "label '99'" in errors["99/strange.png"]
    assert "the mask is (9, 40)" in errors[f"{name}/wrong.jpg"]
    assert len(errors) == 6
    of = {(s.protocol.kind, s.title): s for s in found.summaries}
    assert {(kind, s.examples, s.errors) for (kind, _), s in of.items()} == {
        ("segmentation", 2, 6),
        ("perturbation", 3, 5),
    }
    assert set(found.failed().values()) == {1}
    assert found.complete


def test_a_large_data_set_is_told_from_another_by_its_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "WHOLE", 10)
    monkeypatch.setattr(dataset, "ENDS", 4)
    file = tmp_path / "x"
    found = set()
    for content in (
        b"abcd" + b"." * 9 + b"efgh",
        b"abcd" + b"." * 9 + b"efgi",
        b"abcd" + b"." * 10 + b"efgh",
        b"Abcd" + b"." * 9 + b"efgh",
    ):
        file.write_bytes(content)
        found.add(dataset.files_digest([file]))
    assert len(found) == 4


@pytest.mark.skipif(not (SHARED / "coco_masks").is_dir(), reason=f"no {SHARED / 'coco_masks'}; see REGARD_DATA")
def test_real_photographs_with_masks(vit):
    """COCO's photographs, whose masks hold a value for each class, and 255 for crowds."""
    with (SHARED / "coco_masks" / "index.csv").open() as file:
        dominant = {row["file"]: int(row["dominant_class"]) for row in csv.DictReader(file)}
    data = data_set(str(SHARED / "coco_masks"), object="largest", ignore=255)
    assert len(data) == len(dominant) == 85
    for i in (0, 40, 84):
        example = data.example(vit, i)
        assert example.error == ""
        values = np.asarray(Image.open(SHARED / "coco_masks" / "masks" / f"{Path(example.name).stem}.png"))
        assert torch.equal(example.mask, torch.from_numpy(values == dominant[Path(example.name).stem]))
        assert example.mask.shape == example.raw("pixel_values").pixels.shape[:2]


@pytest.mark.skipif(not (SHARED / "eraser_movies").is_dir(), reason=f"no {SHARED / 'eraser_movies'}; see REGARD_DATA")
def test_real_reviews(bert):
    data = data_set(str(SHARED / "eraser_movies"))
    expected = read_eraser(SHARED / "eraser_movies")
    assert len(data) == len(expected)
    for i in (len(expected) - 1, 0, 7):
        found = data.document(bert, i)
        assert (found.text, found.label, found.evidence) == (expected[i].text, expected[i].label, expected[i].evidence)
