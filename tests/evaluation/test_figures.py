"""Figures against torch, timm and plain loops; evaluation of photos against transformers; resuming."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from oracles import TINY, answer, import_timm, random_model, saved, torch, transformers
from PIL import Image
from sizes import MICRO

import tfdeit
from tfdeit.data.loading import Loading
from tfdeit.data.pipeline import eval_pipeline
from tfdeit.data.sources import FolderSource
from tfdeit.evaluation.figures import BINS, Evaluation, evaluate
from tfdeit.labels import imagenet_classes


def evaluated(logits, labels, size):
    """The evaluation of batches of `size`."""
    evaluation = Evaluation.empty(logits.shape[1])
    for start in range(0, len(labels), size):
        evaluation.update(logits[start : start + size], labels[start : start + size])
    return evaluation


def same(a, b):
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in vars(a))


@pytest.fixture
def answers(rng):
    """Logits of 37 classes that are often right, and labels; one class has no images."""
    labels = rng.integers(0, 36, 500)
    logits = rng.normal(size=(500, 37)) * 2
    logits[np.arange(500), labels] += 3
    return logits, labels


def test_figures_equal_those_of_torch_and_timm(answers):
    logits, labels = answers
    found = evaluated(logits, labels, 64)
    tensors = torch.from_numpy(logits), torch.from_numpy(labels)
    top1, top5 = import_timm().utils.accuracy(*tensors, topk=(1, 5))
    assert found.count == 500
    assert found.top1 * 100 == pytest.approx(top1.item(), abs=1e-4)
    assert found.top5 * 100 == pytest.approx(top5.item(), abs=1e-4)
    assert 0.1 < found.top1 < found.top5 < 1
    assert found.loss == pytest.approx(torch.nn.functional.cross_entropy(*tensors).item(), rel=1e-12)


def test_confusions_and_classes_equal_plain_loops(answers):
    logits, labels = answers
    found = evaluated(logits, labels, 64)
    guesses = torch.from_numpy(logits).argmax(1).tolist()
    pairs = list(zip(labels.tolist(), guesses, strict=True))
    for true in range(37):
        for guess in range(37):
            assert found.confusion[true, guess] == pairs.count((true, guess))
    for index, row in enumerate(found.per_class):
        right, truths, taken = pairs.count((index, index)), labels.tolist().count(index), guesses.count(index)
        assert row == {
            "count": truths,
            "recall": right / truths if truths else None,
            "precision": right / taken if taken else None,
        }
    assert found.per_class[36]["recall"] is None


def test_calibration_error_is_its_definition(answers):
    logits, labels = answers
    confidence, guess = torch.softmax(torch.from_numpy(logits), 1).max(1)
    confidence, right = confidence.numpy(), guess.numpy() == labels
    expected = 0.0
    for i in range(BINS):
        inside = (confidence > i / BINS) & (confidence <= (i + 1) / BINS)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    found = evaluated(logits, labels, 64)
    assert found.ece == pytest.approx(expected, rel=1e-9)
    assert found.bins[0].sum() == 500
    sure = Evaluation.empty(3)
    sure.update(np.eye(3) * 1000, np.arange(3))  # confidence 1 is in the last bin
    assert sure.bins[:, -1].tolist() == [3, 3, 3]
    assert sure.ece == sure.loss == 0


def test_parts_add_up(answers):
    logits, labels = answers
    parts = [evaluated(logits[part], labels[part], 50) for part in (slice(200), slice(200, 500))]
    whole, merged = evaluated(logits, labels, 50), parts[0].merge(parts[1])
    assert np.array_equal(whole.confusion, merged.confusion)
    assert (whole.in_top5, whole.count) == (merged.in_top5, merged.count)
    assert whole.loss == pytest.approx(merged.loss, rel=1e-12)
    np.testing.assert_allclose(whole.bins, merged.bins, rtol=1e-12)
    assert parts[0].count == 200  # and stay what they are


def test_few_classes_and_ties():
    found = Evaluation.empty(3)
    found.update(np.zeros((3, 3)), np.arange(3))
    assert found.confusion.tolist() == [[1, 0, 0], [1, 0, 0], [1, 0, 0]]
    assert (found.top1, found.top5) == (pytest.approx(1 / 3), 1)
    assert found.loss == pytest.approx(np.log(3))
    found = Evaluation.empty(7)
    found.update(np.zeros((7, 7)), np.arange(7))
    assert found.top5 == pytest.approx(5 / 7)


@pytest.mark.parametrize("dtype", ["float16", "float32", ml_dtypes.bfloat16])
def test_logits_of_any_precision(answers, dtype):
    logits, labels = answers
    logits = logits.astype(dtype)
    assert same(evaluated(logits, labels, 64), evaluated(logits.astype("float64"), labels, 64))


def test_what_cannot_be_evaluated():
    found = Evaluation.empty(3)
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match="Expected finite logits"):
            found.update(np.full((1, 3), value), [0])
    for label in (-1, 3):
        with pytest.raises(ValueError, match="Expected labels below 3"):
            found.update(np.zeros((1, 3)), [label])
    assert found.confusion.sum() == 0


# -------------------------------------------------------------------------------------------------- images


@pytest.fixture(scope="module")
def model():
    config = tfdeit.DeiTConfig(**MICRO | {"id2label": list("abcde")}, initializer_range=0.5)
    return tfdeit.TFDeiTForImageClassificationWithTeacher(config)


@pytest.fixture
def source(tmp_path, rng):
    """30 images of 5 classes; all of the second batch of 8 are broken, and one of the third."""
    for i in range(30):
        path = tmp_path / "data" / "abcde"[i // 6] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 36, 3), "uint8")).save(path)
        if 8 <= i < 17:
            path.write_text("no image")
    return FolderSource(tmp_path / "data")


def pipeline(source):
    return eval_pipeline(source, 8, "vit", 32, loading=Loading(on_error="skip"))


@pytest.mark.parametrize(
    "head", ["both", *(pytest.param(h, marks=pytest.mark.slow) for h in ("class", "distillation"))]
)
def test_each_head(model, source, head):
    found = evaluate(model, pipeline(source), head=head)
    kept = [i for i in range(30) if not 8 <= i < 17]
    processor = tfdeit.ViTImageProcessor(size=32)
    outputs = model(processor([source.paths[i] for i in kept]).pixel_values)
    logits = {"both": 0, "class": 1, "distillation": 2}
    expected = evaluated(np.asarray(outputs[logits[head]]), source.labels[kept], 8)
    assert np.array_equal(found.confusion, expected.confusion)
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)


def test_an_evaluation_goes_on_where_it_stopped(model, source):
    states = []

    def keep(evaluation, step):
        copied = {name: np.copy(value) if np.ndim(value) else value for name, value in vars(evaluation).items()}
        states.append((Evaluation(**copied), step))

    whole = evaluate(model, pipeline(source), keep)
    assert [step for _, step in states] == [1, 3, 4]  # nothing of the second could be read
    assert [state.count for state, _ in states] == [8, 15, 21]
    for evaluation, step in states:
        assert same(evaluate(model, pipeline(source), start=(evaluation, step)), whole)


def test_no_image_can_be_read(model, source):
    for path in source.paths:
        Path(path).write_bytes(b"")
    with pytest.raises(ValueError, match="at least one image that can be read. Received: none of 30"):
        evaluate(model, pipeline(source))


def test_photos_of_imagenet_equal_transformers(shared_images, tmp_path):
    """Top-1, top-5 and loss by synset folders: of transformers' model on transformers' pixels, by torch."""
    synsets = list(imagenet_classes())
    paths = [path for path in shared_images if path.name[:9] in synsets][:16]
    theirs = random_model("DeiTForImageClassificationWithTeacher", **TINY, num_hidden_layers=2, num_labels=1000)
    processor = transformers.DeiTImageProcessorPil(size={"height": 256, "width": 256}, crop_size=224, resample=3)
    images = [Image.open(path).convert("RGB") for path in paths]
    pixel_values = processor(images, return_tensors="np").pixel_values.transpose(0, 2, 3, 1)
    logits = torch.from_numpy(answer(theirs, pixel_values)["logits"])
    labels = torch.tensor([synsets.index(path.name[:9]) for path in paths])
    top1, top5 = (a.item() / 100 for a in import_timm().utils.accuracy(logits, labels, topk=(1, 5)))

    for path in paths:
        folder = tmp_path / "val" / path.name[:9]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / path.name).symlink_to(path)
    source = FolderSource(tmp_path / "val")
    indices = [synsets.index(name) for name in source.class_names]
    source.labels = np.array(indices, "int32")[source.labels]
    ours = tfdeit.TFDeiTForImageClassificationWithTeacher.from_pretrained(saved(theirs, tmp_path / "model"))
    processor = tfdeit.DeiTImageProcessor(image_mean=processor.image_mean, image_std=processor.image_std)
    found = evaluate(ours, eval_pipeline(source, 6, processor))
    assert (found.top1, found.top5) == pytest.approx((top1, top5))
    assert found.loss == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), abs=1e-4)
