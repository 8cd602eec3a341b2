"""What an export writes, and what is refused."""

import keras
import pytest
import tensorflow as tf
from served import MICRO, PROCESSOR, blocks, make
from tensorflow.core.protobuf import saved_model_pb2

import tfdeit
from tfdeit.exports.saved_model.export import export_saved_model
from tfdeit.preprocessing.processors import DeiTImageProcessor


def test_layout(exported, embedded):
    saved = saved_model_pb2.SavedModel.FromString((exported / "saved_model.pb").read_bytes())
    methods = {name: value.method_name for name, value in saved.meta_graphs[0].signature_def.items()}
    assert methods.pop("classify") == "tensorflow/serving/classify"
    assert methods.pop("__saved_model_init_op") is not None
    assert set(methods.values()) == {"tensorflow/serving/predict"}
    assert exported.name == "1"
    assert oct(exported.stat().st_mode)[-3:] == "755"
    assert {path.name for path in exported.parent.iterdir()} == {
        "1", "README.md", "batching_parameters.txt", "models.config"
    }  # fmt: skip
    weights = 4 * embedded[0].count_params()
    assert 1 <= sum(path.stat().st_size for path in (exported / "variables").iterdir()) / weights < 1.01
    # The graph and the warm-up requests do not grow with the width of the model.
    assert sum(path.stat().st_size for path in exported.rglob("*") if path.is_file()) < weights + 3e6


def test_configuration_and_snippets(exported):
    directory = exported.parent
    readme = (directory / "README.md").read_text(encoding="utf-8")
    assert "@" not in readme.replace("@_", "")
    for block in readme.split("```python\n")[1:]:
        compile(block.split("```")[0], "README.md", "exec")
    assert '-v "$PWD":/models/micro:ro' in readme
    assert '"http://localhost:8501/v1/models/micro:predict"' in readme
    assert "| `serving_default` | `image_bytes` (B) string |" in readme
    config = (directory / "models.config").read_text(encoding="utf-8")
    schema = pytest.importorskip(
        "tensorflow_serving.config.model_server_config_pb2", reason="pip install tfdeit[serving]"
    )
    from google.protobuf import text_format

    parsed = text_format.Parse(config, schema.ModelServerConfig())
    (served,) = parsed.model_config_list.config
    assert (served.name, served.base_path, served.model_platform) == ("micro", "/models/micro", "tensorflow")


@pytest.mark.slow
def test_versions(tmp_path):
    model = make()
    assert export_saved_model(model, PROCESSOR, tmp_path / "m").name == "1"
    (tmp_path / "m" / "7").mkdir()
    assert export_saved_model(model, PROCESSOR, tmp_path / "m").name == "8"


def test_wrong_arguments(tmp_path, monkeypatch):
    model, out = make(), tmp_path / "out"
    (tmp_path / "labels.txt").write_text("a\nb\n")
    backbone = tfdeit.TFViTModel(tfdeit.ViTConfig(**MICRO))
    masked = tfdeit.TFViTForMaskedImageModeling(tfdeit.ViTConfig(**MICRO))
    headless = make(num_labels=0)
    for wrong in (backbone, masked, headless):
        with pytest.raises(ValueError, match="Expected a classifier with classes. Received: a TFViT"):
            export_saved_model(wrong, PROCESSOR, out)
    for top_k in (0, 8):
        with pytest.raises(ValueError, match=rf"top_k from 1 to the number of classes, 7. Received: top_k={top_k}"):
            export_saved_model(model, PROCESSOR, out, top_k=top_k)
    for labels in (["a", "b"], tmp_path / "labels.txt"):
        with pytest.raises(ValueError, match="Expected 7 labels, one per class. Received: 2 labels"):
            export_saved_model(model, PROCESSOR, out, labels=labels)
    with pytest.raises(FileNotFoundError, match=r"absent\.txt"):
        export_saved_model(model, PROCESSOR, out, labels=tmp_path / "absent.txt")
    with pytest.raises(ValueError, match="Expected an image processor that makes images of 32x32"):
        export_saved_model(model, DeiTImageProcessor(), out)
    with pytest.raises(ValueError, match="Expected a new or empty directory.*holds labels.txt"):
        export_saved_model(model, PROCESSOR, tmp_path)
    with pytest.raises((FileExistsError, NotADirectoryError)):
        export_saved_model(model, PROCESSOR, tmp_path / "labels.txt")
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match="Expected Keras' TensorFlow backend.*Received: jax"):
        export_saved_model(model, PROCESSOR, out)
    assert [path.name for path in tmp_path.iterdir()] == ["labels.txt"]


@pytest.mark.slow
def test_nothing_is_left_of_an_export_that_fails(tmp_path, monkeypatch):
    def fail(*_args, **_kwargs):
        raise OSError("the disk is full")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    (tmp_path / "old" / "1").mkdir(parents=True)
    for directory in ("new", "old"):
        with pytest.raises(OSError, match="the disk is full"):
            export_saved_model(make(), PROCESSOR, tmp_path / directory)
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["old", "old/1"]


@pytest.mark.slow
def test_guide(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    export, bulk_inferrer = blocks("python")
    exec(export, {})
    assert (tmp_path / "exported" / "1" / "saved_model.pb").is_file()
    compile(bulk_inferrer, "serving.md", "exec")
