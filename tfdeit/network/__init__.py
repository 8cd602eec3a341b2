"""The network, on every Keras backend: pixel values (B, H, W, C) go in, logits, features and attention maps come out.

Read `kernels`, `layers`, `backbone` and `models` in this order. Other packages build and load models through the
classes of `models` and `backbone`, read `outputs`, and ask `memory` how many images fit.
"""
