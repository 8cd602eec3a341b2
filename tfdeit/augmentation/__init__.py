"""Training batches: uint8 images (B, H, W, 3) and one seed per image go in, augmented and normalised pixels come out.

Compiled TensorFlow, image by image, with the arithmetic of Pillow and timm. Other packages use `recipe` (what to do),
`assembly` (the function that does it), `mix` and `masks`; `layers` is for Keras users.
"""
