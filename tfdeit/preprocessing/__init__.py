"""From photos (bytes, paths, PIL images or arrays) to `pixel_values` (B, H, W, 3).

`images` decodes, `processor_config` reads how a checkpoint wants its pixels, and `processors` prepares them, on the
host or compiled on the device. Other packages use the processors and `images.decode_image`.
"""
