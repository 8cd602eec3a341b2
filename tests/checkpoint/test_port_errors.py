"""What does not fit is not ported: one error lists everything, and no file is left."""

import json

import numpy as np
import pytest
import references as ref
from checkpoints import SUFFIXES, fails, our_model, timm_file
from references import OVERRIDES, TIMM, random_tensors, torch_shapes
from safetensors.numpy import save_file

import tfdeit
from tfdeit.checkpoint import CheckpointError
from tfdeit.checkpoint.port import open_source, port


def test_all_that_does_not_fit_is_in_one_error(tmp_path):
    def spoil(tensors):
        del tensors["blocks.1.norm1.bias"]
        tensors["blocks.0.mlp.fc2.weight"] = np.zeros((48, 32), "float32")
        tensors["norm.bias"] = np.zeros(32, "int64")

    timm_file(tmp_path / "a.safetensors", change=spoil)
    with pytest.raises(CheckpointError) as caught:
        port(tmp_path / "a.safetensors", tmp_path / "out", **OVERRIDES)
    assert str(caught.value).splitlines()[1:] == [
        "  missing: blocks.1.norm1.bias",
        "  misshapen: blocks.0.mlp.fc2.weight (48x32 instead of 32x48)",
        "  not floating-point: norm.bias",
    ]
    assert not (tmp_path / "out").exists()


def test_mixed_names(tmp_path):
    timm_file(tmp_path / "a.safetensors", change=lambda t: t.update({"vit.layernorm.bias": t.pop("norm.bias")}))
    fails(
        tmp_path / "a.safetensors",
        "(?s)fit none:\n  timm knows 31 of 32, not: vit.layernorm.bias\n  Hugging Face knows 1",
    )


def test_names_of_two_formats(tmp_path):
    names = {"blocks.0.norm1.bias": np.ones(3, "f4"), "head.weight": np.ones((2, 3), "f4")}
    save_file(names, tmp_path / "a.safetensors")
    fails(tmp_path / "a.safetensors", "patch_embed.proj.weight, which tells the model's sizes")
    names = {"Transformer/encoderblock_0/LayerNorm_0/bias": np.ones(3, "f4"), "cls": np.ones((1, 1, 3), "f4")}
    np.savez(tmp_path / "a.npz", **names)
    fails(tmp_path / "a.npz", "(?s)fit several:\n  Google npz knows 2 of 2\n  Big Vision npz knows 2 of 2")


def test_models_without_blocks(tmp_path):
    """Only the names of blocks tell formats apart: without them none is certain, whatever the config says."""
    our_model("ViTForImageClassification", num_hidden_layers=0).save_pretrained(tmp_path / "a")
    fails(tmp_path / "a", "transformer blocks in .*Received: depth 0.* of Hugging Face or Hugging Face in memory")
    tfdeit.TFViTForImageClassification.from_pretrained(tmp_path / "a")  # which need not guess the format

    def without_blocks(tensors):
        for name in [name for name in tensors if name.startswith("blocks.")]:
            del tensors[name]

    timm_file(tmp_path / "a.safetensors", change=without_blocks)
    fails(tmp_path / "a.safetensors", "transformer blocks in .*Received: depth 0.* of timm")
    our_model("ViTForImageClassification").save_pretrained(tmp_path / "b")
    config = json.loads((tmp_path / "b/config.json").read_text()) | {"num_hidden_layers": 0}
    (tmp_path / "b/config.json").write_text(json.dumps(config))
    fails(tmp_path / "b", "Expected num_hidden_layers=2 in config.json, as in the weights. Received: 0")


def test_names_of_nobody(tmp_path):
    save_file({"conv1.weight": np.ones((2, 3), "f4")}, tmp_path / "a.safetensors")
    fails(tmp_path / "a.safetensors", "no format knows any of: conv1.weight")
    save_file({}, tmp_path / "b.safetensors")
    fails(tmp_path / "b.safetensors", "Expected the names in .* to fit one format.*fit none")


def test_pre_logits(tmp_path):
    tensors = random_tensors(ref.google_shapes() | {"pre_logits/kernel": (32, 32), "pre_logits/bias": (32,)})
    np.savez(tmp_path / "a.npz", **tensors)
    fails(tmp_path / "a.npz", "(?s)not: pre_logits/bias, pre_logits/kernel.*a layer pre_logits.*fine-tuned")


def test_gap_in_the_blocks(tmp_path):
    def rename(tensors):
        for name in [name for name in tensors if name.startswith("blocks.1.")]:
            tensors[name.replace("blocks.1.", "blocks.2.")] = tensors.pop(name)

    timm_file(tmp_path / "a.safetensors", change=rename)
    fails(tmp_path / "a.safetensors", "missing: blocks.1.attn.proj.bias, blocks.1")


def test_immense_index_of_a_block(tmp_path):
    timm_file(tmp_path / "a.safetensors", change=lambda t: t.update({"blocks.999999.norm1.bias": t["norm.bias"]}))
    fails(tmp_path / "a.safetensors", "not: blocks.0.attn.proj.bias")


def test_width_that_tells_no_heads(tmp_path):
    timm_file(tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="multiple of 64.*Received: 32. Say how many heads.*num_attention_heads"):
        open_source(tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="hidden_size to be a multiple of num_attention_heads=5"):
        open_source(tmp_path / "a.safetensors", num_attention_heads=5)
    with pytest.raises(ValueError, match="Did you mean 'num_labels'"):
        open_source(tmp_path / "a.safetensors", num_label=3, **OVERRIDES)


def test_nothing_of_a_checkpoint_is_lost_silently(tmp_path):
    our_model("DeiTForImageClassificationWithTeacher").save_pretrained(tmp_path / "deit")
    with pytest.raises(CheckpointError, match="cls_classifier/bias.*distillation_token have no place there"):
        port(tmp_path / "deit", tmp_path / "a.npz", to="npz")
    our_model("ViTModel").save_pretrained(tmp_path / "vit")
    with pytest.raises(CheckpointError, match="pooler/bias, pooler/kernel have no place there"):
        port(tmp_path / "vit", tmp_path / "a.safetensors", to="timm")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deit", "vit"]


def test_values_that_are_not_finite_leave_no_file(tmp_path):
    timm_file(tmp_path / "a.safetensors", change=lambda tensors: tensors["norm.bias"].put(3, np.nan))
    for to, suffix in SUFFIXES.items():
        with pytest.raises(CheckpointError, match="Expected finite values of norm.bias"):
            port(tmp_path / "a.safetensors", tmp_path / f"out{suffix}", to=to, **OVERRIDES)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a.safetensors"]


def test_tensors_that_would_fill_the_memory(tmp_path):
    torch = pytest.importorskip("torch", reason="the oracle of torch files")
    one = torch.zeros(1)
    shapes = {name: [side * 1000 for side in shape] for name, shape in torch_shapes(TIMM, False).items()}
    torch.save({name: one.expand(shape) for name, shape in shapes.items()}, tmp_path / "a.pth")
    fails(tmp_path / "a.pth", "Expected tensors of at most 64 times the .* bytes")


def test_wrong_use(tmp_path):
    timm_file(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="Expected a .safetensors or .pth or .pt or .bin file for timm"):
        port(tmp_path / "a.safetensors", tmp_path / "out", to="timm")
    with pytest.raises(ValueError, match="Expected a directory to write to"):
        port(tmp_path / "a.safetensors", tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="Expected one of hf, timm, .*Received: target 'onnx'"):
        port(tmp_path / "a.safetensors", tmp_path / "out", to="onnx")
    with pytest.raises(CheckpointError, match="Expected the directory of a checkpoint.* Received: 'absent.pth'"):
        port("absent.pth", tmp_path / "out")
