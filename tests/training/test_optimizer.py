"""Optimizers, schedules and 20-step trajectories against PyTorch and timm."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracles import import_timm, random_model, saved, torch, transformers
from sizes import MICRO
from torch.nn import functional as F

from tfdeit import TFDeiTForImageClassificationWithTeacher
from tfdeit.checkpoint.files import named_variables
from tfdeit.config import DeiTConfig
from tfdeit.training.learner import Learner
from tfdeit.training.losses import DistillationLoss, SoftCrossEntropy
from tfdeit.training.optimizer import AdamW, Cosine, EpochCosine, Lamb, layer_scales, make_schedule
from tfdeit.training.recipes import RECIPES
from tfdeit.training.tasks import Classification
from tfdeit.training.teacher import Teacher

STEPS, BATCH = 20, 8
NO_DECAY = ("cls_token", "distillation_token", "position_embeddings")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A random DeiT with two heads, as transformers saves it."""
    config = {**MICRO, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = random_model("DeiTForImageClassificationWithTeacher", **config)
    return saved(model, tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="module")
def batches():
    rng = np.random.default_rng(1)
    pixels = rng.normal(size=(STEPS, BATCH, 32, 32, 3)).astype("float32")
    return pixels, rng.dirichlet(np.ones(5), (STEPS, BATCH)).astype("float32")


def teach(pixel_values):
    """A teacher in any framework: five linear functions of the mean colours."""
    weights = np.random.default_rng(2).normal(size=(3, 5)).astype("float32") * 30
    return pixel_values.mean(axis=(1, 2)) @ weights


def torch_run(path, run):
    """Trains transformers' model by `run(model)`; returns its tensors by name."""
    model_class = transformers.DeiTForImageClassificationWithTeacher
    model = model_class.from_pretrained(path, attn_implementation="eager").train()
    run(model)
    return {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}


def torch_groups(model, decay, scales=None):
    """FB's parameter groups: no decay of vectors, tokens, positions; and timm's layer-wise rates."""
    groups = []
    for name, parameter in model.named_parameters():
        plain = parameter.ndim < 2 or name.rsplit(".", 1)[-1] in NO_DECAY
        scale = (scales or (lambda name: 1.0))(name)
        groups.append({"params": [parameter], "weight_decay": 0.0 if plain else decay, "scale": scale})
    return groups


def torch_loss(model, pixels, labels, kind):
    outputs = model.deit(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())).last_hidden_state
    cls_logits = model.cls_classifier(outputs[:, 0])
    distillation_logits = model.distillation_classifier(outputs[:, 1])
    labels = torch.from_numpy(labels)
    if kind == "none":
        return -(labels * F.log_softmax((cls_logits + distillation_logits) / 2, dim=1)).sum(1).mean()
    base = -(labels * F.log_softmax(cls_logits, dim=1)).sum(1).mean()
    answer = torch.from_numpy(teach(pixels))
    if kind == "hard":
        return 0.5 * base + 0.5 * F.cross_entropy(distillation_logits, answer.argmax(1))
    terms = F.log_softmax(distillation_logits / 2, dim=1), F.log_softmax(answer / 2, dim=1)
    divergence = F.kl_div(*terms, reduction="sum", log_target=True) * 4 / distillation_logits.numel()
    return 0.5 * base + 0.5 * divergence


def our_learner(directory, kind, optimizer, **options):
    student = TFDeiTForImageClassificationWithTeacher.from_pretrained(directory)
    task = Classification(SoftCrossEntropy())
    if kind != "none":
        teacher = Teacher(lambda pixels: tf.reduce_mean(pixels, (1, 2)) @ _weights(), None, lambda pixels: pixels)
        teacher.prepare([str(i) for i in range(5)], (32, 32), np.zeros(3), np.ones(3))
        task = Classification(SoftCrossEntropy(), DistillationLoss(SoftCrossEntropy(), kind, 0.5, 2.0), teacher)
    learner = Learner(student, task, **options)
    learner.compile(optimizer)
    return learner


def _weights():
    return tf.constant(np.random.default_rng(2).normal(size=(3, 5)).astype("float32") * 30)


def assert_same_path(ours, theirs, path):
    """Compares how far all weights moved, relative to the whole movement."""
    model = transformers.DeiTForImageClassificationWithTeacher.from_pretrained(path)
    model.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in theirs.items()})
    model.save_pretrained(path.parent / "trained")
    model_class, difference, moved = TFDeiTForImageClassificationWithTeacher, 0.0, 0.0
    end, start = (named_variables(model_class.from_pretrained(p)) for p in (path.parent / "trained", path))
    for name, value in ours.items():
        wanted, began = end[name].numpy().astype("float64"), start[name].numpy()
        difference += np.sum((value - wanted) ** 2)
        moved += np.sum((wanted - began) ** 2)
    assert moved > 0
    assert math.sqrt(difference / moved) < 1e-4


def numpy_weights(learner):
    return {name: variable.numpy() for name, variable in named_variables(learner.student).items()}


@pytest.mark.parametrize(
    ("kind", "accumulation", "clip", "jit"),
    [
        ("hard", 4, 0.5, False),
        pytest.param("none", 1, 0.0, False, marks=pytest.mark.slow),
        pytest.param("hard", 1, 0.5, False, marks=pytest.mark.slow),
        pytest.param("soft", 1, 0.0, False, marks=pytest.mark.slow),
        pytest.param("hard", 4, 0.5, True, marks=pytest.mark.slow),
    ],
)
def test_twenty_steps_as_in_pytorch(directory, batches, kind, accumulation, clip, jit):
    path = directory
    schedule = Cosine(2e-3, total=STEPS, warmup=5, start=1e-4, end=1e-5)
    rates = [float(schedule(step)) for step in range(STEPS)]
    averages = {}

    def run(model):
        from timm.utils import ModelEmaV2

        ema = ModelEmaV2(model, decay=0.9)
        optimizer = torch.optim.AdamW(torch_groups(model, 0.05), eps=1e-8)
        for pixels, labels, rate in zip(*batches, rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad()
            for part in np.split(np.arange(BATCH), accumulation):
                (torch_loss(model, pixels[part], labels[part], kind) / accumulation).backward()
            if clip:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            ema.update(model)
        averages.update({name: tensor.numpy() for name, tensor in ema.module.state_dict().items()})

    import_timm()
    theirs = torch_run(path, run)
    learner = our_learner(path, kind, AdamW(schedule, 0.05), accumulation=accumulation, clip=clip, ema=0.9, jit=jit)
    for pixels, labels in zip(*batches, strict=True):
        learner.step(tf.constant(pixels), tf.constant(labels))
    ours = numpy_weights(learner)
    assert_same_path(ours, theirs, path)
    ours = dict(zip(ours, (average.numpy() for average in learner.averages), strict=True))
    assert_same_path(ours, averages, path)


@pytest.mark.slow
def test_layer_decay_as_in_pytorch(directory, batches):
    """Each parameter has a rate of its own in torch, after the rule of BEiT's code."""
    path = directory

    def scale(name):
        if "embeddings" in name:
            return 0.5**4
        layer = name.split("layer.")[1].split(".")[0] if "layer." in name else None
        layer = layer or (name.split("layers.")[1].split(".")[0] if "layers." in name else None)
        return 0.5 ** (3 - int(layer)) if layer else 1.0

    def run(model):
        groups = torch_groups(model, 0.3, scale)
        for group in groups:
            group["lr"] = 1e-3 * group.pop("scale")
        optimizer = torch.optim.AdamW(groups)
        for pixels, labels in zip(*batches, strict=True):
            optimizer.zero_grad()
            torch_loss(model, pixels, labels, "none").backward()
            optimizer.step()

    theirs = torch_run(path, run)
    scales = layer_scales(DeiTConfig.from_pretrained(path), 0.5)
    optimizer = AdamW(1e-3, 0.3, lr_scales=scales)
    config = keras.saving.serialize_keras_object(optimizer)
    optimizer = keras.saving.deserialize_keras_object(config)  # exclusions and rates survive
    assert keras.saving.serialize_keras_object(optimizer) == config
    learner = our_learner(path, "none", optimizer, jit=False)
    for pixels, labels in zip(*batches, strict=True):
        learner.step(tf.constant(pixels), tf.constant(labels))
    assert_same_path(numpy_weights(learner), theirs, path)


def test_lamb_is_timms(rng):
    import_timm()
    from timm.optim import Lamb as TimmLamb

    values = [rng.normal(size=shape).astype("float32") for shape in ((4, 3), (3,), (3, 5))]
    theirs = [torch.nn.Parameter(torch.from_numpy(value.copy())) for value in values]
    groups = [{"params": [p], "weight_decay": 0.1 if p.ndim > 1 else 0.0} for p in theirs]
    reference = TimmLamb(groups, lr=0.01, max_grad_norm=None)
    ours = [keras.Variable(value) for value in values]
    optimizer = Lamb(0.01, weight_decay=0.1)
    optimizer.build(ours)
    for _ in range(20):
        gradients = [rng.normal(size=value.shape).astype("float32") for value in values]
        for parameter, gradient in zip(theirs, gradients, strict=True):
            parameter.grad = torch.from_numpy(gradient.copy())
        reference.step()
        optimizer.apply([tf.constant(gradient) for gradient in gradients], ours)
    for value, ours_now, parameter in zip(values, ours, theirs, strict=True):
        wanted = parameter.detach().numpy()
        assert np.abs(ours_now.numpy() - wanted).max() < 1e-4 * np.abs(wanted - value).max()


def test_epoch_cosine_is_facebooks():
    """FB's script renews the rate of timm's scheduler after each epoch, with that epoch's number."""
    import_timm()
    from timm.scheduler import CosineLRScheduler

    recipe = RECIPES["deit_pretrain"].replace(epochs=20, batch_size=1024)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=recipe.peak_lr)
    scheduler = CosineLRScheduler(
        optimizer, t_initial=20, lr_min=1e-5, warmup_t=5, warmup_lr_init=1e-6, cycle_limit=1, t_in_epochs=True
    )
    schedule = make_schedule(recipe, steps_per_epoch=3)
    assert isinstance(schedule, EpochCosine)
    for epoch in range(20):
        expected = optimizer.param_groups[0]["lr"]
        found = [float(schedule(3 * epoch + step)) for step in range(3)]
        assert found == pytest.approx([expected] * 3, rel=1e-5)
        scheduler.step(epoch)


def test_cosine_and_constant():
    schedule = Cosine(1.0, total=100, warmup=10, start=0.1, end=0.2)
    assert [float(schedule(step)) for step in (0, 5, 10, 55, 100)] == pytest.approx([0.1, 0.55, 1.0, 0.6, 0.2])
    same = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    assert float(same(55)) == pytest.approx(0.6)
    constant = make_schedule(RECIPES["deit_finetune_384"], steps_per_epoch=10)
    assert {float(constant(step)) for step in (0, 100, 300)} == {np.float32(5e-6)}


def test_an_optimizer_that_clips_is_refused(directory):
    with pytest.raises(ValueError, match="without global_clipnorm"):
        our_learner(directory, "none", keras.optimizers.SGD(0.1, global_clipnorm=1.0))
