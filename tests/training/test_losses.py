"""Losses against PyTorch: values and gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracles import import_timm, torch
from torch.nn import functional as F

from tfdeit.training.losses import DistillationLoss, PresentCrossEntropy, SoftCrossEntropy

KINDS = [("none", 0, 1), ("hard", 0.5, 1), ("hard", 1.0, 1), ("soft", 0.5, 1), ("soft", 0.1, 3), ("soft", 0.9, 0.5)]


@pytest.fixture
def arrays(rng):
    """Soft labels, logits of both heads, and of a teacher: 6 images, 11 classes, some logits far apart."""
    labels = rng.dirichlet(np.full(11, 0.3), 6).astype("float32")
    return labels, *(rng.normal(size=(3, 6, 11)) * [[[1.0]], [[5.0]], [[20.0]]]).astype("float32")


def gradients(loss, y_true, logits):
    variables = [tf.Variable(x) for x in logits]
    with tf.GradientTape() as tape:
        value = loss(y_true, tuple(map(tf.convert_to_tensor, variables)))
    return float(value), [g.numpy() for g in tape.gradient(value, variables)]


@pytest.mark.parametrize(("kind", "alpha", "tau"), KINDS)
def test_distillation_is_facebooks(arrays, kind, alpha, tau):
    labels, cls_logits, dist_logits, teacher = arrays
    import_timm()
    from timm.loss import SoftTargetCrossEntropy

    own, other = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (cls_logits, dist_logits))
    theirs = torch.tensor(teacher, dtype=torch.float64)
    expected = SoftTargetCrossEntropy()(own, torch.tensor(labels, dtype=torch.float64))
    if kind == "hard":
        expected = (1 - alpha) * expected + alpha * F.cross_entropy(other, theirs.argmax(dim=1))
    if kind == "soft":
        terms = F.log_softmax(other / tau, dim=1), F.log_softmax(theirs / tau, dim=1)
        divergence = F.kl_div(*terms, reduction="sum", log_target=True)
        expected = (1 - alpha) * expected + alpha * divergence * tau**2 / other.numel()
    expected.backward()

    if kind == "none":
        value, (own_gradient,) = gradients(lambda y, x: SoftCrossEntropy()(y, x[0]), labels, [cls_logits])
        found = [own_gradient, np.zeros_like(dist_logits)]
    else:
        loss = DistillationLoss(SoftCrossEntropy(), kind, alpha, tau)
        loss = keras.losses.deserialize(keras.losses.serialize(loss))  # the arguments survive
        value, found = gradients(loss, (labels, teacher), [cls_logits, dist_logits])
    assert value == pytest.approx(expected.item(), rel=1e-6)
    for ours, parameter in zip(found, (own, other), strict=True):
        wanted = np.zeros_like(ours) if parameter.grad is None else parameter.grad.numpy()
        np.testing.assert_allclose(ours, wanted, rtol=1e-6, atol=1e-6 * max(np.abs(wanted).max(), 1e-3))


def test_present_classes(arrays):
    labels, logits = np.where(arrays[0] > 0.1, arrays[0], 0), arrays[1]
    parameter = torch.tensor(logits, requires_grad=True)
    expected = F.binary_cross_entropy_with_logits(parameter, torch.tensor(labels > 0, dtype=torch.float32))
    expected.backward()
    value, (found,) = gradients(lambda y, x: PresentCrossEntropy()(y, x[0]), labels, [logits])
    assert value == pytest.approx(expected.item(), rel=1e-6)
    np.testing.assert_allclose(found, parameter.grad.numpy(), rtol=2e-6, atol=1e-8)


def test_an_unknown_kind():
    with pytest.raises(ValueError, match="'hard' or 'soft'"):
        DistillationLoss(SoftCrossEntropy(), "harder")
