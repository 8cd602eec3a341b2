"""What the models return: NamedTuples, which Keras flattens; fields that were not asked for are `()`.

The first field is what stock losses and metrics see. Shapes: B images, T tokens (prefix tokens first), D width,
N classes.
"""

from typing import Any, NamedTuple

Tensor = Any  # of the Keras backend, or numpy from `predict`


class BackboneOutput(NamedTuple):
    """Output of `TFViTModel` and `TFDeiTModel`."""

    last_hidden_state: Tensor  # (B, T, D), after the final LayerNorm
    pooler_output: Tensor = ()  # (B, P)
    hidden_states: tuple[Tensor, ...] = ()  # depth + 1 of (B, T, D), before the final LayerNorm
    attentions: tuple[Tensor, ...] = ()  # depth of (B, heads, T, T)


class ClassifierOutput(NamedTuple):
    """Output of `TFViTForImageClassification` and `TFDeiTForImageClassification`."""

    logits: Tensor  # (B, N)
    hidden_states: tuple[Tensor, ...] = ()
    attentions: tuple[Tensor, ...] = ()
    loss: Tensor = ()  # (B,), when labels are given


class TeacherClassifierOutput(NamedTuple):
    """Output of `TFDeiTForImageClassificationWithTeacher`."""

    logits: Tensor  # (B, N), the mean of the next two
    cls_logits: Tensor  # (B, N), from the class token
    distillation_logits: Tensor  # (B, N), from the distillation token
    hidden_states: tuple[Tensor, ...] = ()
    attentions: tuple[Tensor, ...] = ()


class MaskedImageOutput(NamedTuple):
    """Output of `TFViTForMaskedImageModeling` and `TFDeiTForMaskedImageModeling`."""

    reconstruction: Tensor  # (B, H, W, C), in the units of pixel_values
    hidden_states: tuple[Tensor, ...] = ()
    attentions: tuple[Tensor, ...] = ()
    loss: Tensor = ()  # (1,), when bool_masked_pos is given
