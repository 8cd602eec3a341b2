"""Strings, and distributions against timm."""

import itertools
import math
import random

import numpy as np
import pytest
import tensorflow as tf
from conftest import slow
from oracles import import_timm, torch
from training_data import seeds

from tfdeit.augmentation import crops_and_erasing, draws, masks, randaugment

stats = pytest.importorskip("scipy.stats", reason="the tests of distributions: pip install tfdeit[test]")
auto_augment, random_erasing, transforms = (
    getattr(import_timm().data, name) for name in ("auto_augment", "random_erasing", "transforms")
)
DRAWS = 10_000
P = 0.01


def same_distribution(ours, theirs):
    """Kolmogorov-Smirnov for each column."""
    ours, theirs = np.atleast_2d(np.asarray(ours, float).T), np.atleast_2d(np.asarray(theirs, float).T)
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert stats.ks_2samp(a, b, method="asymp").pvalue > P


def same_frequencies(ours, theirs):
    """Chi-square for two lists of anything that sorts."""
    kinds = sorted({*ours, *theirs})
    table = [[list(values).count(kind) for kind in kinds] for values in (ours, theirs)]
    assert stats.chi2_contingency(table).pvalue > P


# ------------------------------------------------------------------------------------------------- numbers


def test_threefry_gives_the_published_answers():
    """The known answers of Random123's kat_vectors for threefry2x32 with 20 rounds: counter, key, result."""
    answers = [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
    ]
    for counter, key, expected in answers:
        words = draws.threefry(*([tf.constant(word, tf.uint32) for word in pair] for pair in (key, counter)))
        assert tuple(int(word) for word in words) == expected


def test_uniforms_are_uniform_and_independent():
    numbers = draws.uniforms(seeds(DRAWS), 2, "a").numpy()
    assert stats.kstest(numbers.ravel(), "uniform").pvalue > P
    other = draws.uniforms(seeds(DRAWS), 2, "b").numpy()
    for a, b in ((numbers[:, 0], numbers[:, 1]), (numbers[:-1, 0], numbers[1:, 0]), (numbers[:, 0], other[:, 0])):
        assert stats.pearsonr(a, b).pvalue > P


# --------------------------------------------------------------------------------------------- RandAugment


@pytest.mark.parametrize(
    "config",
    ["rand-m9-mstd0.5-inc1", *slow("rand-m7-n3-p0.8", "rand-m15-mmax20-mstd101", "rand-m9-t3a", "rand-n4-tweights")],
)
def test_randaugment_draws_as_timm(config):
    random.seed(0)
    np.random.seed(0)
    theirs = auto_augment.rand_augment_transform(config, {"img_mean": randaugment.MEAN_COLOR})
    chosen, done = [], []
    for index, operation in enumerate(theirs.ops):
        operation.level_fn = lambda magnitude, _, index=index: (index, magnitude)
        operation.aug_fn = lambda image, *what, **_: done.append(what)
    pick = np.random.choice

    def choice(operations, *args, **options):
        chosen.append(pick(len(operations), *args, **options))
        return [operations[index] for index in chosen[-1]]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np.random, "choice", choice)
        for _ in range(DRAWS):
            theirs(None)
    ours = randaugment.RandAugment(config)
    assert list(ours.operations) == [operation.name for operation in theirs.ops]
    program = ours.draw(seeds(DRAWS))
    index, argument = program.index.numpy(), program.argument.numpy()
    applied = index < len(theirs.ops)
    same_frequencies(index[applied].tolist(), [number for number, _ in done])
    same_frequencies(
        applied.sum(axis=1).tolist(), np.random.binomial(index.shape[1], theirs.ops[0].prob, DRAWS).tolist()
    )
    assert abs(len(done) - applied.sum()) < 4 * math.sqrt(2 * applied.size / 4)  # four standard deviations
    always = randaugment.RandAugment(config + "-p1").draw(seeds(DRAWS, 1)).index.numpy()
    for layer in (0, -1):
        same_frequencies(always[:, layer].tolist(), np.array(chosen)[:, layer].tolist())
    probe = next(i for i, name in enumerate(ours.operations) if name in ("Rotate", "Desaturate"))
    convert = auto_augment.LEVEL_TO_ARG[theirs.ops[probe].name]
    expected = [convert(magnitude, {})[0] for number, magnitude in done if number == probe]  # with timm's signs
    same_distribution(argument[index == probe], expected)


def test_interpolation_is_drawn_evenly():
    share = randaugment.RandAugment(interpolation="random").draw(seeds(DRAWS)).bicubic.numpy().mean()
    assert abs(share - 0.5) < 4 * 0.5 / math.sqrt(2 * DRAWS)


@pytest.mark.slow
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_random_interpolation_is_one_of_the_two(interpolation, pixels):
    fixed, drawn = (randaugment.RandAugment(interpolation=i) for i in (interpolation, "random"))
    program = fixed.draw(seeds(1))._replace(
        index=tf.constant([[3, 15]]), bicubic=tf.constant([[interpolation == "bicubic"] * 2])
    )
    one = [tensor[0] for tensor in program]
    program = randaugment.Program(*one)
    np.testing.assert_array_equal(fixed.apply(pixels[0], program), drawn.apply(pixels[0], program))


@pytest.mark.parametrize(
    "config", ["", "rand-", "rand-w0", "rand-mx", "rand-m9.5", "rand-tbest", "augmix-m3", "rand-m9-mstdinf", None, 9]
)
def test_bad_strings(config):
    with pytest.raises(ValueError, match="Expected .* Received: "):
        randaugment.RandAugment(config)


def test_bad_interpolation():
    with pytest.raises(ValueError, match="Expected interpolation to be one of .* Received: 'nearest'"):
        randaugment.RandAugment(interpolation="nearest")


def test_options_of_the_string():
    options = randaugment.RandAugment("rand-p0.3-inc1-mstd200-n3-m7-mmax12").options
    assert options == {
        "magnitude": 7,
        "layers": 3,
        "magnitude_std": math.inf,
        "magnitude_max": 12,
        "increasing": True,
        "probability": 0.3,
        "transforms": None,
    }


# --------------------------------------------------------------------------------------------------- boxes


@pytest.mark.parametrize("size", [(375, 500), *slow((500, 333), (64, 1000), (40, 37))])
def test_crops_are_distributed_as_timms(size, monkeypatch):
    random.seed(0)
    monkeypatch.setattr(transforms.F, "get_image_size", lambda image: image, raising=False)
    params = transforms.RandomResizedCropAndInterpolation.get_params
    theirs = [params(size[::-1], (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(DRAWS)]
    heights, widths = (np.full(DRAWS, side) for side in size)
    ours = crops_and_erasing.random_resized_crop_boxes(heights, widths, seeds(DRAWS)).numpy()
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, :2] + ours[:, 2:] <= size).all()
    same_distribution(ours, theirs)
    same_distribution(ours[:, 2] / ours[:, 3], np.divide(*np.array(theirs).T[2:]))


def test_crops_of_any_image():
    heights, widths = np.array([1, 1, 5000, 1, 2]), np.array([1, 5000, 1, 2, 1])
    boxes = crops_and_erasing.random_resized_crop_boxes(heights, widths, seeds(5)).numpy()
    assert (boxes[:, 2:] >= 1).all()
    assert (boxes[:, 0] + boxes[:, 2] <= heights).all()
    assert (boxes[:, 1] + boxes[:, 3] <= widths).all()
    assert crops_and_erasing.random_resized_crop_boxes([], [], tf.zeros([0, 2], tf.int32)).shape == (0, 4)


@pytest.mark.parametrize("count", [1, *slow(3)])
def test_erasing_is_distributed_as_timms(count, monkeypatch):
    random.seed(0)
    height, width, sizes, tops, runs = 64, 48, [], [], []
    timm = random_erasing.RandomErasing(0.25, mode="const", max_count=count, device="cpu")
    monkeypatch.setattr(random_erasing, "_get_pixels", lambda *a, **k: sizes.append(a[2][1:]) or torch.zeros((3, 1, 1)))
    for _ in range(DRAWS):
        before = len(sizes)
        image = timm(torch.ones(3, height, width))[0].numpy()
        runs.append(len(sizes) - before)
        if count == 1 and (image == 0).any():
            tops.append([np.argmin(image.min(axis=1)), np.argmin(image.min(axis=0))])
    boxes, _ = crops_and_erasing.RandomErasing(0.25, "const", count).draw(seeds(DRAWS), height, width)
    boxes = boxes.numpy()
    erased = boxes[..., 2] * boxes[..., 3] > 0
    assert (boxes[..., :2] + boxes[..., 2:] <= [height, width]).all()
    same_frequencies(erased.sum(axis=1).tolist(), runs)
    ours, sizes = boxes[erased], np.array(sizes)
    same_distribution(ours[:, 2:], sizes)
    same_distribution(np.prod(ours[:, 2:], axis=1), np.prod(sizes, axis=1))
    same_distribution(ours[:, 2] / ours[:, 3], sizes[:, 0] / sizes[:, 1])
    if count == 1:
        same_distribution(ours[:, :2], tops)


@pytest.mark.parametrize("mode", ["pixel", *slow("rand", "const")])
def test_erases_its_boxes_only(mode):
    images = np.full((200, 24, 32, 3), 7, "float32")
    erasing = crops_and_erasing.RandomErasing(1.0, mode, 2)
    erased = erasing(images, seeds(200)).numpy()
    inside = np.zeros((200, 24, 32), bool)
    for mask, boxes in zip(inside, erasing.draw(seeds(200), 24, 32)[0].numpy(), strict=True):
        for top, left, height, width in boxes:
            mask[top : top + height, left : left + width] = True
    np.testing.assert_array_equal((erased != 7).any(axis=-1), inside)
    if mode == "const":
        assert not erased[inside].any()
    else:
        values = erased[inside] if mode == "pixel" else np.unique(erased[inside])
        assert stats.kstest(values.ravel(), "norm").pvalue > P
    colours = [len(np.unique(image[mask], axis=0)) for image, mask in zip(erased, inside, strict=True)]
    assert max(colours) <= {"const": 1, "rand": 2, "pixel": 24 * 32}[mode]
    assert mode != "pixel" or min(colours) > 2


# -------------------------------------------------------------------------------------- jitter, flip, masks


def test_jitter_is_distributed_as_torchvisions():
    order, factors = (values.numpy() for values in crops_and_erasing.ColorJitter(0.4, 0.2, 1.5, 0.1).draw(seeds(DRAWS)))
    permutations = list(itertools.permutations(range(4)))
    counts = [(order == permutation).all(axis=1).sum() for permutation in permutations]
    assert stats.chisquare(counts).pvalue > P
    for index, (low, high) in enumerate([(0.6, 1.4), (0.8, 1.2), (0.0, 2.5), (-0.1, 0.1)]):
        assert stats.kstest(factors[order == index], "uniform", (low, high - low)).pvalue > P


def test_three_augment_and_flip_draw_evenly():
    index, sigma = (values.numpy() for values in crops_and_erasing.ThreeAugment().draw(seeds(DRAWS)))
    assert stats.chisquare(np.bincount(index[:, 0])).pvalue > P
    assert stats.kstest(sigma[:, 0], "uniform", (0.1, 1.9)).pvalue > P
    flips = crops_and_erasing.RandomFlip(0.3).draw(seeds(DRAWS)).numpy().sum()
    assert stats.binomtest(int(flips), DRAWS, 0.3).pvalue > P


def test_flip_mirrors(pixels):
    np.testing.assert_array_equal(crops_and_erasing.RandomFlip(1.0)(pixels, seeds(6)), pixels[:, :, ::-1])
    np.testing.assert_array_equal(crops_and_erasing.RandomFlip(0.0)(pixels, seeds(6)), pixels)


def test_masks_whole_blocks():
    found = masks.block_masks(seeds(1000), 96, 8, 32, 0.4).numpy()
    assert found.shape == (1000, 144)
    blocks = found.reshape(1000, 3, 4, 3, 4)
    np.testing.assert_array_equal(blocks.all(axis=(2, 4)), blocks.any(axis=(2, 4)))
    assert set(found.sum(axis=1)) == {math.ceil(9 * 0.4) * 16}
    assert stats.chisquare(blocks[:, :, 0, :, 0].sum(axis=0).ravel()).pvalue > P
    with pytest.raises(ValueError, match="Expected block_size to divide"):
        masks.block_masks(seeds(1), 100, 8)


def test_bad_crops():
    with pytest.raises(ValueError, match=r"Expected scale to be \(low, high\)"):
        crops_and_erasing.random_resized_crop_boxes([4], [4], seeds(1), scale=(1.0, 0.5))
