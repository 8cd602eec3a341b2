"""Published architectures at full size: the original with random weights -> its file -> ported -> ours; and back.

Hugging Face's directories are in test_parity.py, DeiT III's options in test_deit3.py, the corners of every format in
test_port*.py.
"""

import gc

import numpy as np
import pytest
from oracles import (
    BASE,
    TINY,
    answer,
    largest_difference,
    random_model,
    random_timm_model,
    saved,
    timm_answer,
    torch,
    transformers,
)
from references import MMPRETRAIN, TIMM, google_tensors, renamed, write_tf_model
from safetensors.numpy import load_file
from torch import nn

import tfdeit
from tfdeit.checkpoint.port import port

TOLERANCE = 1e-4
pytestmark = pytest.mark.slow


def random_image(side):
    return np.random.default_rng(0).normal(size=(1, side, side, 3)).astype("float32")


def compare(expected, source, directory, pixel_values):
    """Ports `source` to `directory`, and compares each block's tokens and the logits."""
    architecture = port(source, directory).architecture
    model = getattr(tfdeit, f"TF{architecture}").from_pretrained(directory)
    outputs = model(pixel_values, output_hidden_states=True)
    assert largest_difference((*outputs.hidden_states[1:], outputs.logits), expected) <= TOLERANCE
    del model, outputs
    gc.collect()  # a model has cycles, and the largest here are 1.2 GB


def numpy_state(model):
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def clear(model):
    """Sets the parameters of a torch model to zero, so that what it holds afterwards is what it loaded."""
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)


def assert_identical(received, expected):
    assert received.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(received[name], tensor, strict=True)


@pytest.mark.parametrize(
    ("name", "to", "wrapper"),
    [
        ("deit_tiny_patch16_224", "fb", "model"),
        ("deit_base_distilled_patch16_384", "fb", "model"),
        ("deit3_small_patch16_224", "timm", None),
    ],
)
def test_timm_and_facebook(name, to, wrapper, tmp_path):
    theirs = random_timm_model(name)
    pixel_values = random_image(theirs.patch_embed.img_size[0])
    state = theirs.state_dict()
    torch.save({wrapper: state} if wrapper else state, tmp_path / "a.pth")
    compare(timm_answer(theirs, pixel_values), tmp_path / "a.pth", tmp_path / "ported", pixel_values)

    port(tmp_path / "ported", tmp_path / "back.pth", to=to)
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    clear(theirs)
    theirs.load_state_dict(back[wrapper] if wrapper else back)
    expected = torch.load(tmp_path / "a.pth", weights_only=True)
    expected = expected[wrapper] if wrapper else expected
    assert_identical(numpy_state(theirs), {name: tensor.numpy() for name, tensor in expected.items()})


def parameters_of_mmpretrain(width, depth, patch, tokens, labels, distilled):
    """The modules of MMPretrain's ImageClassifier that hold parameters, under its attributes' names, without values.

    The backbone is a VisionTransformer or DistilledVisionTransformer, whose blocks hold an FFN of mmcv: a list of
    lists of layers. The head is a VisionTransformerClsHead or DeiTClsHead.
    """

    def module(**children):
        parent = nn.Module()
        for name, child in children.items():
            setattr(parent, name, child)
        return parent

    def block():
        attention = module(qkv=nn.Linear(width, 3 * width), proj=nn.Linear(width, width))
        ffn = nn.Sequential(nn.Sequential(nn.Linear(width, 4 * width), nn.GELU()), nn.Linear(4 * width, width))
        return module(ln1=nn.LayerNorm(width), attn=attention, ln2=nn.LayerNorm(width), ffn=module(layers=ffn))

    with torch.device("meta"):
        backbone = module(
            patch_embed=module(projection=nn.Conv2d(3, width, patch, patch)),
            cls_token=nn.Parameter(torch.empty(1, 1, width)),
            pos_embed=nn.Parameter(torch.empty(1, tokens, width)),
            layers=nn.ModuleList(block() for _ in range(depth)),
            ln1=nn.LayerNorm(width),
        )
        heads = module(head=nn.Linear(width, labels))
        if distilled:
            backbone.dist_token = nn.Parameter(torch.empty(1, 1, width))
            heads.head_dist = nn.Linear(width, labels)
        return module(backbone=backbone, head=module(layers=heads))


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "deit_small_distilled_patch16_224"])
def test_mmpretrain(name, tmp_path):
    theirs = random_timm_model(name)
    state = renamed(theirs.state_dict(), TIMM, MMPRETRAIN)
    structure = parameters_of_mmpretrain(theirs.embed_dim, 12, 16, theirs.pos_embed.shape[1], 1000, "dist" in name)
    structure.load_state_dict(state, assign=True)
    torch.save({"state_dict": state, "meta": {"epoch": 300}}, tmp_path / "a.pth")
    compare(timm_answer(theirs, random_image(224)), tmp_path / "a.pth", tmp_path / "ported", random_image(224))

    port(tmp_path / "ported", tmp_path / "back.pth", to="mmpretrain")
    structure.load_state_dict(torch.load(tmp_path / "back.pth", weights_only=True)["state_dict"], assign=True)
    assert_identical(numpy_state(structure), {name: tensor.numpy() for name, tensor in state.items()})


@pytest.mark.parametrize(
    ("name", "side"),
    [("deit_small_patch16_224", 224), pytest.param("vit_large_patch32_384", 384, marks=pytest.mark.heavy)],
)
def test_google(name, side, tmp_path):
    theirs = random_timm_model(name)
    heads = theirs.blocks[0].attn.num_heads
    np.savez(tmp_path / "a.npz", **google_tensors(numpy_state(theirs), heads))
    compare(timm_answer(theirs, random_image(side)), tmp_path / "a.npz", tmp_path / "ported", random_image(side))

    port(tmp_path / "ported", tmp_path / "back.npz", to="npz")
    clear(theirs)
    theirs.load_pretrained(tmp_path / "back.npz")
    with np.load(tmp_path / "a.npz") as expected, np.load(tmp_path / "back.npz") as back:
        assert back.keys() == expected.keys()  # timm's loader ignores what it does not know
        assert_identical(google_tensors(numpy_state(theirs), heads), expected)


@pytest.mark.parametrize(
    ("class_name", "config", "tf_name"),
    [
        ("ViTForImageClassification", TINY, "tf_vi_t_for_image_classification"),
        (
            "DeiTForImageClassificationWithTeacher",
            BASE | {"image_size": 384},
            "tf_dei_t_for_image_classification_with_teacher",
        ),
    ],
)
def test_tensorflow_of_transformers_4(class_name, config, tf_name, tmp_path):
    theirs = random_model(class_name, num_labels=1000, **config)
    source = saved(theirs, tmp_path / "theirs")
    write_tf_model(source / "tf_model.h5", load_file(source / "model.safetensors"), tf_name)
    (source / "model.safetensors").unlink()
    pixel_values = random_image(theirs.config.image_size)
    expected = answer(theirs, pixel_values, output_hidden_states=True)
    compare((*expected["hidden_states"][1:], expected["logits"]), source, tmp_path / "ported", pixel_values)

    back, info = getattr(transformers, class_name).from_pretrained(tmp_path / "ported", output_loading_info=True)
    assert not any(info.values())
    assert_identical(numpy_state(back), numpy_state(theirs))
