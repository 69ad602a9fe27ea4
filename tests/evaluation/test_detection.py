"""Average precision against a literal twin: Python lists and loops, straight from the definition."""

import numpy as np
import pytest
import torch

from regard.errors import Misuse
from regard.evaluation.protocols.box_matching import Boxes, average_precision, mean_average_precision, overlaps


def iou_twin(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def ap_twin(found, true, label, threshold):
    """Go through all predictions of the class, the surest first; integrate the envelope over recall step by step."""
    rows = [
        (float(f.scores[i]), picture, f.boxes[i].tolist())
        for picture, f in enumerate(found)
        for i in range(len(f.boxes))
        if int(f.labels[i]) == label
    ]
    free = {
        picture: [t.boxes[i].tolist() for i in range(len(t.boxes)) if int(t.labels[i]) == label]
        for picture, t in enumerate(true)
    }
    count = sum(map(len, free.values()))
    points, right = [], 0
    for n, (_, picture, box) in enumerate(sorted(rows, key=lambda row: -row[0]), 1):
        best = max(free[picture], key=lambda b: iou_twin(box, b), default=None)
        if best is not None and iou_twin(box, best) >= threshold:
            free[picture].remove(best)
            right += 1
        points.append((right / count, right / n))
    area, reached = 0.0, 0.0
    for recall in sorted({r for r, _ in points}):
        area += (recall - reached) * max(p for r, p in points if r >= recall)
        reached = recall
    return area


def random_boxes(count, gen):
    corner = torch.rand(count, 2, generator=gen, dtype=torch.float64) * 0.6
    return torch.cat([corner, corner + 0.1 + 0.3 * torch.rand(count, 2, generator=gen, dtype=torch.float64)], 1)


def made():
    """Forty pictures of up to four boxes: found near, found twice, and guessed at."""
    gen = torch.Generator().manual_seed(0)
    found, true = [], []
    for _ in range(40):
        n = int(torch.randint(0, 5, (), generator=gen))
        boxes, labels = random_boxes(n, gen), torch.randint(3, (n,), generator=gen)
        near = boxes + 0.03 * torch.randn(n, 4, generator=gen, dtype=torch.float64)
        again = near[: n // 2] + 0.01  # found twice
        others = random_boxes(3, gen)
        guess = torch.cat([labels, labels[: n // 2], torch.randint(4, (3,), generator=gen)])
        scores = torch.rand(len(guess), generator=gen, dtype=torch.float64)
        found.append(Boxes(torch.cat([near, again, others]), guess, scores))
        true.append(Boxes(boxes, labels))
    return found, true


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.75])
def test_average_precision_is_that_of_the_twin(threshold):
    found, true = made()
    each = average_precision(found, true, threshold)
    assert set(each) == {0, 1, 2}  # class 3 does not occur
    for label, ap in each.items():
        assert 0 < ap < 1
        assert ap == pytest.approx(ap_twin(found, true, label, threshold), abs=1e-12)
    assert mean_average_precision(found, true, threshold) == pytest.approx(sum(each.values()) / 3)


@pytest.mark.parametrize("threshold", [0.5, 0.75])
def test_average_precision_is_that_of_coco_at_every_recall(threshold):
    """COCO's own evaluation takes 101 recalls; asked for every recall that there is, it must give the same."""
    coco, evaluation = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    found, true = made()

    def annotations(pictures):
        every = [(i, p, k) for i, p in enumerate(pictures) for k in range(len(p.boxes))]
        for number, (i, p, k) in enumerate(every, 1):
            left, top, right, bottom = p.boxes[k].tolist()
            size = {
                "bbox": [left, top, right - left, bottom - top],
                "area": (right - left) * (bottom - top),
                "iscrowd": 0,
            }
            yield (
                size
                | {"id": number, "image_id": i, "category_id": int(p.labels[k])}
                | ({} if p.scores is None else {"score": float(p.scores[k])})
            )

    def data(pictures):
        made_of = coco.COCO()
        made_of.dataset = {
            "images": [{"id": i} for i in range(len(pictures))],
            "categories": [{"id": c} for c in range(4)],
            "annotations": list(annotations(pictures)),
        }
        made_of.createIndex()
        return made_of

    for label, ap in average_precision(found, true, threshold).items():
        count = sum(int((t.labels == label).sum()) for t in true)
        run = evaluation.COCOeval(data(true), data(found), "bbox")
        run.params.catIds, run.params.iouThrs = [label], np.array([threshold])
        run.params.recThrs = np.array([k / count for k in range(1, count + 1)])
        run.params.areaRng, run.params.areaRngLbl, run.params.maxDets = [[0, 1e10]], ["all"], [100]
        run.evaluate()
        run.accumulate()
        assert ap == pytest.approx(float(run.eval["precision"].mean()), abs=1e-9)


def test_average_precision_by_hand():
    true = [Boxes(torch.tensor([[0.0, 0, 2, 2], [4, 4, 6, 6]]), torch.tensor([0, 0]))]
    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2], [4, 4, 6, 7]])
    found = [Boxes(boxes, torch.tensor([0, 0, 0]), torch.tensor([0.9, 0.8, 0.7]))]
    assert average_precision(found, true)[0] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)  # right, a double, right
    assert average_precision(found, true, 0.7)[0] == pytest.approx(0.5)  # the last overlaps by 2/3


def test_boxes_that_do_not_meet_overlap_by_nothing():
    a = torch.tensor([[0.0, 0, 1, 1], [0, 0, 2, 2]])
    b = torch.tensor([[1.0, 1, 2, 2], [3, 3, 4, 4]])
    assert overlaps(a, b).tolist() == [[0, 0], [0.25, 0]]


def test_nothing_found_scores_zero():
    none = Boxes(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    true = [Boxes(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([2]))]
    assert average_precision([none], true) == {2: 0.0}


def test_no_true_box_is_refused():
    none = Boxes(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    with pytest.raises(Misuse, match="no true boxes"):
        mean_average_precision([none], [none])
