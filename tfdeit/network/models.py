"""The heads on the backbone, and the class that chooses among them.

Classes named TFDeiT* take a `DeiTConfig` and have a distillation token; TFViT* take a `ViTConfig`. All take
`pixel_values` of shape (B, H, W, C), channels last, float, normalised by the checkpoint's image processor; or a dict
of the arguments of `call`, as an image processor returns and tf.data can carry. All return a NamedTuple of `outputs`.
"""

import os

import keras
from keras import ops

from tfdeit.checkpoint.files import find_directory
from tfdeit.config import DeiTConfig, read_config
from tfdeit.network.backbone import PretrainedModel, TFDeiTModel, TFViTModel, takes_dict
from tfdeit.network.outputs import ClassifierOutput, MaskedImageOutput, TeacherClassifierOutput


class HeadModel(PretrainedModel):
    """A backbone, reachable as `model.vit` or `model.deit` as in transformers, and a head."""

    backbone_class = TFViTModel
    backbone_options: dict[str, bool] = {}

    def create_layers(self):
        name = self.config.model_type
        with keras.name_scope(self.name):  # the backbone builds itself, but its variables' paths begin here
            backbone = self.backbone_class(
                self.config, add_pooling_layer=False, **self.backbone_options, dtype=self.dtype_policy, name=name
            )
        setattr(self, name, backbone)

    @property
    def backbone(self) -> TFViTModel:
        """The model below the head."""
        return getattr(self, self.config.model_type)

    def build(self, input_shape):
        for layer in self.layers:
            if layer is not self.backbone:  # it has built itself
                layer.build((None, self.config.hidden_size))

    def classifier_head(self, name: str) -> keras.layers.Layer:
        """Returns a dense layer with one output per label; for `num_labels=0` the identity: logits are features."""
        if self.config.num_labels == 0:
            return keras.layers.Identity(dtype=self.dtype_policy, name=name)
        return self.dense(self.config.num_labels, name)


@keras.saving.register_keras_serializable("tfdeit")
class TFViTForImageClassification(HeadModel):
    """A ViT with a dense head on the final class token."""

    def create_layers(self):
        super().create_layers()
        self.classifier = self.classifier_head("classifier")

    @takes_dict
    def call(
        self,
        pixel_values,
        labels=None,
        head_mask=None,
        output_attentions=None,
        output_hidden_states=None,
        interpolate_pos_encoding=False,
        training=None,
    ):
        """Classifies; arguments as in `TFViTModel.call`.

        Args:
            labels: (B,) class indices; or, with one label (a regression), (B,) or (B, 1) values. If given, the loss
                is computed: cross-entropy, or the squared error.

        Returns:
            A `ClassifierOutput`.
        """
        features = self.backbone(
            pixel_values,
            head_mask=head_mask,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            interpolate_pos_encoding=interpolate_pos_encoding,
            read=1,
            training=training,
        )
        logits = self.classifier(features.last_hidden_state[:, 0])
        loss = () if labels is None else self.label_loss(labels, logits)
        return ClassifierOutput(logits, features.hidden_states, features.attentions, loss)

    def label_loss(self, labels, logits):
        """Returns the loss of each image, (B,)."""
        if self.config.num_labels == 1:
            return ops.square(ops.reshape(ops.cast(labels, logits.dtype), (-1,)) - logits[:, 0])
        return ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)


@keras.saving.register_keras_serializable("tfdeit")
class TFDeiTForImageClassification(TFViTForImageClassification):
    """A distilled DeiT with one dense head, on the final class token."""

    config_class = DeiTConfig
    backbone_class = TFDeiTModel


@keras.saving.register_keras_serializable("tfdeit")
class TFDeiTForImageClassificationWithTeacher(HeadModel):
    """A distilled DeiT with both its heads, on the class and the distillation token; logits are the mean of theirs."""

    config_class = DeiTConfig
    backbone_class = TFDeiTModel

    def create_layers(self):
        super().create_layers()
        self.cls_classifier = self.classifier_head("cls_classifier")
        self.distillation_classifier = self.classifier_head("distillation_classifier")

    @takes_dict
    def call(
        self,
        pixel_values,
        head_mask=None,
        output_attentions=None,
        output_hidden_states=None,
        interpolate_pos_encoding=False,
        training=None,
    ):
        """Classifies; arguments as in `TFViTModel.call`. Returns a `TeacherClassifierOutput`."""
        features = self.backbone(
            pixel_values,
            head_mask=head_mask,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            interpolate_pos_encoding=interpolate_pos_encoding,
            read=2,
            training=training,
        )
        cls_logits = self.cls_classifier(features.last_hidden_state[:, 0])
        distillation_logits = self.distillation_classifier(features.last_hidden_state[:, 1])
        logits = (cls_logits + distillation_logits) / 2
        return TeacherClassifierOutput(
            logits, cls_logits, distillation_logits, features.hidden_states, features.attentions
        )


@keras.saving.register_keras_serializable("tfdeit")
class TFViTForMaskedImageModeling(HeadModel):
    """A ViT that reconstructs masked patches (SimMIM, Xie et al. 2022, arXiv:2111.09886).

    Raises:
        ValueError: if `encoder_stride` is not the side of a square patch.
    """

    backbone_options = {"use_mask_token": True}

    def create_layers(self):
        config = self.config
        if config.patch_hw != (config.encoder_stride, config.encoder_stride):
            raise ValueError(
                f"Expected encoder_stride to equal patch_size={config.patch_size} for masked image modelling, so that "
                f"the reconstruction has the size of the image. Received: encoder_stride={config.encoder_stride}."
            )
        super().create_layers()
        self.decoder = self.dense(config.encoder_stride**2 * config.num_channels, "decoder")

    @takes_dict
    def call(
        self,
        pixel_values,
        bool_masked_pos=None,
        head_mask=None,
        output_attentions=None,
        output_hidden_states=None,
        interpolate_pos_encoding=False,
        training=None,
    ):
        """Reconstructs the image; arguments as in `TFViTModel.call`. Returns a `MaskedImageOutput`."""
        features = self.backbone(
            pixel_values,
            bool_masked_pos=bool_masked_pos,
            head_mask=head_mask,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            interpolate_pos_encoding=interpolate_pos_encoding,
            training=training,
        )
        stride, channels = self.config.encoder_stride, self.config.num_channels
        rows, columns = (side // stride for side in pixel_values.shape[1:3])
        patches = features.last_hidden_state[:, self.config.num_prefix_tokens :]  # (B, N, D)
        pixels = self.decoder(ops.reshape(patches, (-1, self.config.hidden_size)))  # (B*N, stride*stride*C)
        pixels = ops.reshape(pixels, (-1, rows, columns, stride, stride, channels))
        pixels = ops.transpose(pixels, (0, 1, 3, 2, 4, 5))  # (B, rows, stride, columns, stride, C)
        pixels = ops.reshape(pixels, (-1, rows * stride, columns * stride, channels))
        loss = ()
        if bool_masked_pos is not None:
            mask = ops.reshape(ops.cast(bool_masked_pos, "float32"), (-1, rows, columns, 1))
            mask = ops.repeat(ops.repeat(mask, stride, axis=1), stride, axis=2)  # (B, H, W, 1)
            error = ops.abs(ops.cast(pixel_values, "float32") - ops.cast(pixels, "float32"))
            loss = ops.reshape(ops.sum(error * mask) / (ops.sum(mask) + 1e-5) / channels, (1,))
        return MaskedImageOutput(pixels, features.hidden_states, features.attentions, loss)


@keras.saving.register_keras_serializable("tfdeit")
class TFDeiTForMaskedImageModeling(TFViTForMaskedImageModeling):
    """A distilled DeiT that reconstructs masked patches."""

    config_class = DeiTConfig
    backbone_class = TFDeiTModel


class TFAutoModelForImageClassification:
    """Chooses the class of a classification checkpoint from its config.json."""

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike, **options) -> HeadModel:
        """Loads the class that config.json names; a distilled DeiT that names none gets both heads.

        Raises:
            ValueError: if the model type is unknown.
        """
        directory = find_directory(source)
        config = read_config(directory)
        classes = {
            "vit": TFViTForImageClassification,
            "deit": TFDeiTForImageClassificationWithTeacher,
        }
        model_type = config.get("model_type")
        if model_type not in classes:
            raise ValueError(f"Expected model_type to be one of {', '.join(classes)}. Received: {model_type!r}.")
        model_class = classes[model_type]
        if config.get("architectures") == ["DeiTForImageClassification"]:
            model_class = TFDeiTForImageClassification
        return model_class.from_pretrained(directory, **options)


def check_exportable(model: PretrainedModel) -> None:
    """Raises ValueError unless the model has a head with classes, and Keras runs on TensorFlow."""
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Expected Keras' TensorFlow backend, from which exports are made, or with which they are compared. "
            f"Received: {keras.backend.backend()}. Set KERAS_BACKEND=tensorflow."
        )
    # A masked image model has a backbone too, but no head that classifies.
    if not any(hasattr(model, head) for head in ("classifier", "cls_classifier")) or model.config.num_labels == 0:
        raise ValueError(f"Expected a classifier with classes. Received: a {type(model).__name__} without any.")
