import csv
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix, f1_score, jaccard_score

from egeunet.errors import EgeunetError
from egeunet.evaluation.evaluator import COLUMNS, evaluate_arrays
from egeunet.evaluation.predictors import torch_predictor
from egeunet.models.registry import create_model

METRICS = (
    "jaccard",
    "dice",
    "thresholded_jaccard",
    "sensitivity",
    "specificity",
    "accuracy",
    "hd95",
    "assd",
)


@pytest.fixture
def evaluation(blobs, arrays_of, predictor_of):
    truths, predictions = blobs
    return evaluate_arrays(predictor_of(predictions), arrays_of(truths), batch_size=7)


def test_pooled_scores_come_from_one_confusion_matrix(evaluation, blobs):
    truths, predictions = blobs
    tn, fp, fn, tp = confusion_matrix(truths.ravel(), predictions.ravel()).ravel()
    iou = tp / (tp + fp + fn)
    assert evaluation.pooled == pytest.approx(
        {
            "iou": iou,
            "dice": 2 * iou / (1 + iou),
            "accuracy": (tp + tn) / truths.size,
            "sensitivity": tp / (tp + fn),
            "specificity": tn / (tn + fp),
        }
    )


@pytest.mark.filterwarnings("ignore:monai.metrics.utils get_mask_edges:FutureWarning")
def test_scores_per_image_are_those_of_scikit_learn_and_monai(evaluation, blobs):
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

    columns = evaluation.per_image
    for index, (truth, prediction) in enumerate(zip(*blobs, strict=True)):
        jaccard = jaccard_score(truth.ravel(), prediction.ravel())
        dice = f1_score(truth.ravel(), prediction.ravel())
        assert columns["jaccard"].iloc[index] == pytest.approx(jaccard)
        assert columns["dice"].iloc[index] == pytest.approx(dice)
        kept = jaccard if jaccard >= 0.65 else 0
        assert columns["thresholded_jaccard"].iloc[index] == pytest.approx(kept)
    assert (columns["thresholded_jaccard"] == 0).any()
    assert (columns["thresholded_jaccard"] > 0).any()
    b, a = (torch.tensor(masks)[:, None].float() for masks in blobs)
    hd95 = compute_hausdorff_distance(a, b, include_background=True, percentile=95)
    assd = compute_average_surface_distance(a, b, include_background=True, symmetric=True)
    assert columns["hd95"].to_numpy() == pytest.approx(hd95[:, 0].numpy(), rel=1e-5)
    assert columns["assd"].to_numpy() == pytest.approx(assd[:, 0].numpy(), rel=1e-5)


def test_means_stds_and_intervals_summarise_the_images(evaluation):
    assert evaluation.n == 24
    assert tuple(evaluation.means) == METRICS
    for name in METRICS:
        column = evaluation.per_image[name]
        assert evaluation.means[name] == pytest.approx(column.mean())
        assert evaluation.stds[name] == pytest.approx(column.std(ddof=1))
        low, high = evaluation.intervals["means"][name]
        assert column.min() <= low < evaluation.means[name] < high <= column.max()
    for name, score in evaluation.pooled.items():
        low, high = evaluation.intervals["pooled"][name]
        assert low < score < high
    assert evaluation.undefined == {}


def test_batches_do_not_matter(evaluation, blobs, arrays_of, predictor_of):
    truths, predictions = blobs
    other = evaluate_arrays(predictor_of(predictions), arrays_of(truths), batch_size=1)
    assert other.to_dict() == evaluation.to_dict()


def test_empty_masks_are_scored_and_counted(arrays_of, predictor_of):
    empty, full, dot = np.zeros((3, 8, 8), np.uint8)
    full[:] = 1
    dot[2, 2] = 1
    truths, predictions = [empty, empty, dot, full], [empty, dot, empty, full]
    found = evaluate_arrays(predictor_of(predictions), arrays_of(truths))
    assert found.per_image["jaccard"].tolist() == [1, 0, 0, 1]
    assert found.per_image["sensitivity"].tolist() == [1, 1, 0, 1]
    assert found.undefined == {"hd95": 3, "assd": 3}
    assert found.means["hd95"] == 0
    assert found.worst(2) == [1, 2]
    assert "HD95" not in json.dumps(found.to_dict(), allow_nan=False)  # still strict JSON


def test_a_set_without_any_distance_says_so(arrays_of, predictor_of):
    empty = np.zeros((2, 8, 8), np.uint8)
    found = evaluate_arrays(predictor_of(empty), arrays_of(empty))
    assert math.isnan(found.means["hd95"])
    summary = found.to_dict()
    assert summary["means"]["hd95"] is None
    assert summary["intervals"]["means"]["hd95"] == [None, None]


def test_classes_are_scored_each_and_averaged(arrays_of, predictor_of):
    truth, prediction = np.zeros((2, 2, 8, 8), np.uint8)
    truth[:, :4, :4], truth[0, 6:, 6:] = 1, 2  # the second image has no class 2
    prediction[:, :4, :2], prediction[0, 6:, 6:] = 1, 2
    found = evaluate_arrays(
        predictor_of(prediction, 3),
        arrays_of(truth),
        num_classes=3,
        class_names=("body", "core"),
    )
    assert found.per_class["body"]["pooled"]["iou"] == pytest.approx(0.5)
    assert found.per_class["core"]["pooled"]["iou"] == 1
    assert found.per_class["core"]["means"]["jaccard"] == 1
    assert found.pooled["iou"] == pytest.approx(0.75)
    assert found.per_image["jaccard"].tolist() == [0.75, 0.5]
    assert found.per_image["jaccard[core]"].iloc[0] == 1
    assert math.isnan(found.per_image["jaccard[core]"].iloc[1])
    expected = jaccard_score(truth.ravel(), prediction.ravel(), labels=[1, 2], average="macro")
    assert found.pooled["iou"] == pytest.approx(expected)


def test_everything_is_written(evaluation, blobs, arrays_of, tmp_path):
    arrays = arrays_of(blobs[0])
    evaluation.write(tmp_path / "out", arrays, worst=3)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "metrics.json",
        "per_image.csv",
        "worst_cases.png",
    ]
    summary = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert summary == evaluation.to_dict()
    assert summary["n"] == 24
    with (tmp_path / "out" / "per_image.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == list(arrays.ids)
    assert [float(row["hd95"]) for row in rows] == pytest.approx(
        evaluation.per_image["hd95"].to_numpy(), rel=1e-4
    )
    with Image.open(tmp_path / "out" / "worst_cases.png") as picture:
        assert picture.width > picture.height  # three in a row


def test_an_undefined_distance_is_an_empty_cell(arrays_of, predictor_of, tmp_path):
    arrays = arrays_of(np.zeros((1, 32, 32)))
    evaluate_arrays(predictor_of(arrays.masks), arrays).write(tmp_path, arrays)
    assert (tmp_path / "per_image.csv").read_text().splitlines()[1] == "photo_0,1,1,1,1,1,1,,"


def test_a_network_is_evaluated(arrays_of, blobs):
    truths = np.pad(blobs[0][:3], ((0, 0), (0, 32), (0, 24)))
    model = create_model("egeunet")
    found = evaluate_arrays(torch_predictor(model), arrays_of(truths), batch_size=2)
    assert found.predictions.shape == (3, 64, 64)
    assert 0 <= found.pooled["iou"] <= 1


def test_no_images_is_an_error(arrays_of, predictor_of):
    with pytest.raises(EgeunetError, match="no images to evaluate"):
        evaluate_arrays(predictor_of([]), arrays_of(np.zeros((0, 8, 8))))


def test_logits_of_other_classes_are_an_error(arrays_of, predictor_of, blobs):
    with pytest.raises(EgeunetError, match=r"expected \(16, 2, 32, 40\)"):
        evaluate_arrays(predictor_of(blobs[1]), arrays_of(blobs[0]), num_classes=2)


def test_nan_is_an_error_and_not_background(arrays_of, blobs):
    def predict(images):
        return torch.full((len(images), 1, 32, 40), float("nan"))

    with pytest.raises(EgeunetError, match="returned nan"):
        evaluate_arrays(predict, arrays_of(blobs[0]))


def test_the_table_has_every_metric_with_its_interval(blobs, arrays_of, predictor_of):
    truths, predictions = blobs
    predictions[0] = 0
    found = evaluate_arrays(predictor_of(predictions), arrays_of(truths))
    rows = found.table()
    assert all(len(row) == len(COLUMNS) for row in rows)
    table = {row[0]: row[1:] for row in rows}
    low, high = found.intervals["pooled"]["iou"]
    assert table["mIoU, pooled"] == (f"{found.pooled['iou']:.2%}", f"{low:.2%} – {high:.2%}", "")
    distance = f"{found.means['hd95']:.2f} px"
    assert table["HD95 per image (1 undefined)"][0] == distance
    assert len(rows) == len(found.pooled) + len(found.means)


def test_the_table_names_classes_and_what_is_undefined(arrays_of, predictor_of):
    masks = np.zeros((1, 8, 8), np.uint8)
    masks[0, 0, 0] = 1
    found = evaluate_arrays(
        predictor_of(masks, 3), arrays_of(masks), num_classes=3, class_names=("body", "core")
    )
    table = {row[0]: row[1] for row in found.table()}
    assert table["body: IoU, pooled"] == "100.00%"
    assert table["core: IoU, pooled"] == "undefined"


def test_a_binary_mask_is_cut_at_the_threshold(arrays_of):
    """Probabilities 0.2, 0.4, 0.6, 0.8 in four stripes, the upper two of which are lesion."""
    probability = torch.tensor([0.2, 0.4, 0.6, 0.8]).repeat_interleave(2)
    logits = torch.logit(probability).view(1, 1, 8, 1).expand(1, 1, 8, 8)
    truth = (probability > 0.5).view(1, 8, 1).expand(1, 8, 8).numpy()
    sensitivity = {}
    for threshold in (0.3, 0.5, 0.7):
        found = evaluate_arrays(lambda _: logits, arrays_of(truth), threshold=threshold)
        sensitivity[threshold] = found.pooled["sensitivity"], found.pooled["specificity"]
    assert sensitivity == {0.3: (1, 0.5), 0.5: (1, 1), 0.7: (0.5, 1)}
