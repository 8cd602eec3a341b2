"""Porting from Big Vision: towers, stacks of blocks, and one error for what is not supported."""

import numpy as np
import pytest
import references as ref
from checkpoints import fails, load
from references import IMAGES, random_tensors

from tfdeit.checkpoint.big_vision import read_tower
from tfdeit.checkpoint.port import port
from tfdeit.checkpoint.readers import read_any


def stack_blocks(tensors):
    """Stacks them as Big Vision's `scan=True` does: each variable is one array of all blocks, on its first axis."""
    stacked = {name: tensor for name, tensor in tensors.items() if "/encoderblock_" not in name}
    for name in tensors:
        if "/encoderblock_0/" in name:
            blocks = [tensors[name.replace("_0/", f"_{i}/", 1)] for i in range(ref.DEPTH)]
            stacked[name.replace("/encoderblock_0/", "/encoderblock/")] = np.stack(blocks)
    return stacked


TEXT = {"params/txt/Embed_0/embedding": np.ones((7, 3), "f4"), "params/t": np.ones(1, "f4")}
TEXT |= {"params/txt/Encoder_0/encoderblock/LayerNorm_0/bias": np.ones((2, 3), "f4")}


@pytest.mark.parametrize(
    ("prefix", "scan", "big_vision", "save"),
    [
        ("", True, True, np.savez),
        ("params/", True, True, np.savez_compressed),
        ("params/img/", True, True, np.savez),
        ("params/img/", False, True, np.savez_compressed),
        ("params/img/", False, False, np.savez),
        ("img/", False, True, np.savez),
        ("img/", True, False, np.savez),
    ],
)
def test_towers_and_stacks_give_the_logits_of_numpy(tmp_path, prefix, scan, big_vision, save):
    tensors = random_tensors(ref.google_shapes(prefix, big_vision))
    beside = {name.removeprefix("" if "params" in prefix else "params/"): tensor for name, tensor in TEXT.items()}
    beside = beside if "img" in prefix else {}
    save(tmp_path / "a.npz", **(stack_blocks(tensors) if scan else tensors), **beside)
    source = port(tmp_path / "a.npz", tmp_path / "out")
    assert source.unused == sorted(beside)
    logits = load(source, tmp_path / "out")(IMAGES).logits
    np.testing.assert_allclose(logits, ref.google_forward(tensors, prefix, big_vision), rtol=0, atol=1e-4)


def test_slices_of_a_stack_are_views_of_the_mapped_file(tmp_path):
    np.savez(tmp_path / "a.npz", **stack_blocks(random_tensors(ref.google_shapes("params/", True))))
    name = "params/Transformer/encoderblock_1/MlpBlock_0/Dense_0/kernel"
    arrays, _ = read_tower(read_any(tmp_path / "a.npz")[0], "a.npz")
    array = np.asarray(arrays[name])
    assert array.shape == arrays[name].shape == (ref.WIDTH, ref.HIDDEN)
    while isinstance(array.base, np.ndarray):
        assert not array.flags.writeable
        array = array.base
    assert isinstance(array, np.memmap)


@pytest.mark.parametrize("prefix", ["", "params/", "params/img/"])
@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("MAPHead_0/probe", r"pools by attention: {}MAPHead_0/probe.*SigLIP"),
        ("head/extra", "has none and pools by averaging the patches"),
    ],
)
def test_big_vision_without_class_token(tmp_path, prefix, head, message):
    tensors = random_tensors(ref.google_shapes(prefix, True))
    del tensors[f"{prefix}cls"]
    np.savez(tmp_path / "a.npz", **stack_blocks(tensors), **{f"{prefix}{head}": np.ones((1, 1, 3), "f4")})
    fails(tmp_path / "a.npz", f"class token, {prefix}cls, in .*{message.format(prefix)}")


@pytest.mark.parametrize(
    "shape", [(), (3, ref.WIDTH), (0, ref.WIDTH), (2**40, 0), (ref.WIDTH,)], ids=lambda shape: str(shape)
)
def test_stacks_of_other_depths(tmp_path, shape):
    tensors = stack_blocks(random_tensors(ref.google_shapes("params/", True)))
    name = "params/Transformer/encoderblock/LayerNorm_0/bias"
    np.savez(tmp_path / "a.npz", **tensors | {name: np.zeros(shape, "f4")})
    fails(tmp_path / "a.npz", "blocks in .* as stacks of one depth.*Received: ")
    if shape == (2**40, 0):  # all stacks of that depth, without a byte
        stacks = {name: np.zeros((2**40, 0), "f4") for name in tensors if "/encoderblock/" in name}
        np.savez(tmp_path / "a.npz", **tensors | stacks)
        fails(tmp_path / "a.npz", "blocks in .* as stacks of one depth and at most 20000 variables")
        many = {f"Transformer/encoderblock/{i}": np.zeros((1000, 0), "f4") for i in range(100)}
        np.savez(tmp_path / "a.npz", **many)
        fails(tmp_path / "a.npz", "blocks in .* as stacks of one depth and at most 20000 variables")


def test_stacks_beside_single_blocks(tmp_path):
    tensors = random_tensors(ref.google_shapes("params/", True))
    np.savez(tmp_path / "a.npz", **tensors | stack_blocks(tensors))
    fails(tmp_path / "a.npz", "or as separate blocks. Received: both, ")
