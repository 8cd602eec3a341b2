"""Random numbers that depend on a seed only: the same on every device, with any number of threads, in any batch.

Reference: Threefry-2x32 with 20 rounds; Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011.
"""

import zlib

import tensorflow as tf

_ROTATIONS = (13, 15, 26, 6), (17, 29, 16, 24)


@tf.function(jit_compile=True, autograph=False)  # fuses a hundred short operations into one
def threefry(keys, counters):
    """Encrypt counters with Threefry.

    Args:
        keys: Two uint32 tensors.
        counters: Two uint32 tensors that broadcast with the keys.

    Returns:
        Two uint32 tensors.
    """
    schedule = (*keys, keys[0] ^ keys[1] ^ tf.constant(0x1BD11BDA, tf.uint32))
    x, y = counters[0] + keys[0], counters[1] + keys[1]
    for group in range(5):
        for bits in _ROTATIONS[group % 2]:
            x = x + y
            left = tf.bitwise.left_shift(y, tf.constant(bits, tf.uint32))
            y = x ^ (left | tf.bitwise.right_shift(y, tf.constant(32 - bits, tf.uint32)))
        x = x + schedule[(group + 1) % 3]
        y = y + schedule[(group + 2) % 3] + tf.constant(group + 1, tf.uint32)
    return x, y


def check_seeds(seeds):
    """Raise ValueError unless a tensor is (B, 2) int32 or int64."""
    if seeds.dtype not in (tf.int32, tf.int64) or seeds.shape.rank != 2 or seeds.shape[1] != 2:
        raise ValueError(f"Expected seeds (B, 2) of int32 or int64. Received: {seeds.dtype.name} {seeds.shape}")


def _words(seeds, count, stream):
    seeds = tf.convert_to_tensor(seeds)
    check_seeds(seeds)
    keys = tf.cast(tf.bitwise.bitwise_and(tf.cast(seeds, tf.int64), 0xFFFFFFFF), tf.uint32)
    purpose = tf.constant(zlib.crc32(stream.encode()), tf.uint32)
    return threefry((keys[:, :1], keys[:, 1:]), (purpose, tf.cast(tf.range(count)[None], tf.uint32)))


def uniforms(seeds, count: int, stream: str):
    """Draw uniform numbers for each image.

    Args:
        seeds: (B, 2) int32 or int64, of which only the lower 32 bits are used.
        count: How many numbers per image.
        stream: What they are for: numbers of different streams are independent.

    Returns:
        (B, count) float64 in the open interval (0, 1), in steps of 2**-52.
    """
    high, low = _words(seeds, count, stream)
    low = tf.bitwise.right_shift(low, tf.constant(12, tf.uint32))
    return (tf.cast(high, tf.float64) * 2.0**20 + tf.cast(low, tf.float64) + 0.5) * 2.0**-52


def derived_seeds(seeds, count: int, stream: str):
    """Derive new seeds (B, count, 2) int32 from seeds (B, 2); see `uniforms`."""
    return tf.bitcast(tf.stack(_words(seeds, count, stream), axis=-1), tf.int32)


def integers(uniform, count):
    """Map uniform numbers to int32 in 0 <= i < `count`."""
    return tf.cast(uniform * tf.cast(count, tf.float64), tf.int32)


def between(uniform, low, high):
    """Map uniform numbers to [low, high)."""
    return low + (high - low) * uniform
