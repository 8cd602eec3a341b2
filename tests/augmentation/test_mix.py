"""Mixup, CutMix and smoothing against timm."""

import numpy as np
import pytest
import tensorflow as tf
from oracles import import_timm, torch

from tfdeit.augmentation import mix

stats = pytest.importorskip("scipy.stats", reason="the tests of distributions: pip install tfdeit[test]")
timm_mixup = import_timm().data.mixup
DRAWS = 10_000


def same(ours, theirs):
    return stats.ks_2samp(ours, theirs, method="asymp").pvalue > 0.01


def timm_mix(images, labels, mixing, mode, monkeypatch, **options):
    """timm's mixing with what we drew."""
    kept, cut, boxes = (np.asarray(values) for values in mixing)
    order = iter(range(len(kept)))

    def box(shape, lam, **_):
        index = next(i for i in order if cut[i])
        top, left, bottom, right = boxes[index]
        return (top, bottom, left, right), kept[index]

    timm = timm_mixup.Mixup(num_classes=10, mode=mode, **options)
    monkeypatch.setattr(timm_mixup, "cutmix_bbox_and_lam", box)
    monkeypatch.setattr(timm, "_params_per_batch", lambda: (float(kept[0]), bool(cut[0])))
    monkeypatch.setattr(timm, "_params_per_elem", lambda n: (kept[:n].astype("float32"), cut[:n]))
    mixed, target = timm(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(labels))
    return mixed.numpy().transpose(0, 2, 3, 1), target.numpy()


@pytest.mark.parametrize("mode", mix.MODES)
@pytest.mark.parametrize("switch", [0.5, *(pytest.param(p, marks=pytest.mark.slow) for p in (0.0, 1.0))])
def test_mixes_as_timm(mode, switch, rng, monkeypatch):
    images = rng.standard_normal((8, 17, 24, 3)).astype("float32")
    labels = rng.integers(0, 10, 8)
    ours = mix.Mixup(10, switch_probability=switch, mode=mode, smoothing=0.1)
    for seed in range(3):
        mixing = ours.draw([seed, 7], 8, 17, 24)
        assert len(mixing.kept) == (1 if mode == "batch" else 8)
        expected = timm_mix(images, labels, mixing, mode, monkeypatch, label_smoothing=0.1)
        found = ours.apply(tf.constant(images), tf.constant(labels), mixing)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])


def test_smoothing_is_timms(rng):
    labels = rng.integers(0, 1000, 50)
    for smoothing in (0.0, 0.1, 0.3):
        expected = timm_mixup.mixup_target(torch.from_numpy(labels), 1000, smoothing=smoothing)
        np.testing.assert_array_equal(mix.smooth_labels(labels, 1000, smoothing), expected.numpy())


@pytest.mark.parametrize(("mixup", "cutmix", "probability"), [(0.8, 1.0, 1.0), (0.8, 0.0, 0.5), (0.0, 1.0, 1.0)])
def test_draws_are_distributed_as_timms(mixup, cutmix, probability):
    np.random.seed(1)
    timm = timm_mixup.Mixup(mixup, cutmix, prob=probability, mode="batch")
    theirs = [timm._params_per_batch() for _ in range(DRAWS)]
    boxes = [timm_mixup.cutmix_bbox_and_lam((3, 224, 160), lam) if cut else None for lam, cut in theirs]
    ours = mix.Mixup(10, mixup, cutmix, probability, mode="elem").draw([3, 4], DRAWS, 224, 160)
    kept, cut, found = (values.numpy() for values in ours)
    changed = kept < 1
    lam = np.array([value if not cut else box[1] for (value, cut), box in zip(theirs, boxes, strict=True)])
    mixed, pasted = lam < 1, np.array([bool(cut) for _, cut in theirs])
    table = [[(changed & cut).sum(), (changed & ~cut).sum(), (~changed).sum()]]
    table += [[(mixed & pasted).sum(), (mixed & ~pasted).sum(), (~mixed).sum()]]
    table = np.array(table)
    assert stats.chi2_contingency(table[:, table.any(axis=0)]).pvalue > 0.01
    for kind in (True, False):
        if (cut == kind).any() and (pasted == kind).any():
            assert same(kept[(cut == kind) & changed], lam[(pasted == kind) & mixed])
    if cutmix:
        theirs = np.array([box[0] for box in boxes if box])[:, [0, 2, 1, 3]]
        for ours, expected in zip(found[cut].T, theirs.T, strict=True):
            assert same(ours, expected)


def test_one_seed_one_batch(rng):
    images = rng.standard_normal((4, 8, 8, 3)).astype("float32")
    mixup = mix.Mixup(5)
    first, again, other = (mixup(images, np.arange(4), [seed, 0])[0].numpy() for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("mode", mix.MODES)
def test_any_batch_size(mode, rng):
    for batch in (0, 1, 5, 64):
        one_batch(mode, rng.standard_normal((batch, 8, 12, 3)).astype("float32"))


def one_batch(mode, images):
    batch = len(images)
    mixed, labels = mix.Mixup(5, mode=mode)(images, np.arange(batch) % 5, [1, 2])
    assert mixed.shape == images.shape
    np.testing.assert_allclose(np.sum(labels, axis=1), np.ones(batch), atol=1e-6)
    if batch % 2:  # the middle one is its own partner
        np.testing.assert_allclose(mixed[batch // 2], images[batch // 2], atol=1e-6)


def test_smooths_only_without_alphas(rng):
    images = rng.standard_normal((4, 8, 8, 3)).astype("float32")
    mixed, labels = mix.Mixup(5, 0.0, 0.0, smoothing=0.1)(images, np.arange(4), [0, 0])
    np.testing.assert_array_equal(mixed, images)
    np.testing.assert_array_equal(labels, mix.smooth_labels(np.arange(4), 5, 0.1))


@pytest.mark.parametrize(
    "options",
    [{"mode": "half"}, {"mixup_alpha": -1.0}, {"probability": 1.5}, {"smoothing": -0.1}, {"num_classes": 0}],
)
def test_bad_options(options):
    with pytest.raises(ValueError, match="Expected mode to be one of"):
        mix.Mixup(**{"num_classes": 5, **options})


def test_bad_batches():
    with pytest.raises(ValueError, match="Expected float images"):
        mix.Mixup(5)(np.zeros((2, 4, 4, 3), "uint8"), np.arange(2), [0, 0])
    with pytest.raises(ValueError, match="Expected seeds"):
        mix.Mixup(5)(np.zeros((2, 4, 4, 3), "float32"), np.arange(2), [0])
    with pytest.raises(ValueError, match="labels"):
        mix.Mixup(5)(np.zeros((2, 4, 4, 3), "float32"), np.zeros((2, 5)), [0, 0])
