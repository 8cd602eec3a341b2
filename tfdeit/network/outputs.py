"""What the models return: NamedTuples, which Keras flattens; fields that were not asked for are `()`.

The first field is what stock losses and metrics see. Shapes: B images, T tokens (prefix tokens first), D width,
N classes.
"""

from typing import Any, NamedTuple

Tensor = Any  # of the Keras backend, or numpy from `predict`


class BackboneOutput(NamedTuple):
    """Output of `TFViTModel` and `TFDeiTModel`.

    Attributes:
        last_hidden_state: (B, T, D), after the final LayerNorm.
        pooler_output: (B, P).
        hidden_states: depth + 1 of (B, T, D), before the final LayerNorm.
        attentions: depth of (B, heads, T, T).
    """

    last_hidden_state: Tensor
    pooler_output: Tensor = ()
    hidden_states: tuple[Tensor, ...] = ()
    attentions: tuple[Tensor, ...] = ()


class ClassifierOutput(NamedTuple):
    """Output of `TFViTForImageClassification` and `TFDeiTForImageClassification`.

    Attributes:
        logits: (B, N).
        hidden_states: as in `BackboneOutput`.
        attentions: as in `BackboneOutput`.
        loss: (B,), when labels are given.
    """

    logits: Tensor
    hidden_states: tuple[Tensor, ...] = ()
    attentions: tuple[Tensor, ...] = ()
    loss: Tensor = ()


class TeacherClassifierOutput(NamedTuple):
    """Output of `TFDeiTForImageClassificationWithTeacher`.

    Attributes:
        logits: (B, N), the mean of the next two.
        cls_logits: (B, N), from the class token.
        distillation_logits: (B, N), from the distillation token.
        hidden_states: as in `BackboneOutput`.
        attentions: as in `BackboneOutput`.
    """

    logits: Tensor
    cls_logits: Tensor
    distillation_logits: Tensor
    hidden_states: tuple[Tensor, ...] = ()
    attentions: tuple[Tensor, ...] = ()


class MaskedImageOutput(NamedTuple):
    """Output of `TFViTForMaskedImageModeling` and `TFDeiTForMaskedImageModeling`.

    Attributes:
        reconstruction: (B, H, W, C), in the units of pixel_values.
        hidden_states: as in `BackboneOutput`.
        attentions: as in `BackboneOutput`.
        loss: (1,), when bool_masked_pos is given.
    """

    reconstruction: Tensor
    hidden_states: tuple[Tensor, ...] = ()
    attentions: tuple[Tensor, ...] = ()
    loss: Tensor = ()
