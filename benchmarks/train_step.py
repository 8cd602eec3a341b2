"""Time of a training step with hard distillation, against transformers' PyTorch DeiT and keras-hub's DeiT.

    python benchmarks/train_step.py [--model tiny] [--batch 16] [--rounds 7] [--steps 2] [--dtype float32]

A step is forward, backward and AdamW of a DeiT with two heads, 1000 classes, on the same images, soft labels and
answers of a teacher, which all get ready-made. Each round times every contestant once, after the other; a median is
over rounds. `mfu` is the share of the device's arithmetic that the model's needs: three times the forward pass
(two operations per multiply-accumulate), of `--peak` TFLOP/s, or of a large matrix product in TensorFlow or PyTorch,
whichever is faster. KERAS_BACKEND=jax measures ours, and keras-hub's, on JAX.

Prints one JSON line a contestant, the last one with the ratios; a contestant that cannot run says why.
"""

import argparse
import json
import statistics
import time

import keras
import numpy as np

import tfdeit
from tfdeit.training.losses import SoftCrossEntropy
from tfdeit.training.optimizer import AdamW

HEADS = {"tiny": 3, "small": 6, "base": 12}
CLASSES, ALPHA, RATE, DECAY = 1000, 0.5, 1e-3, 0.05


def sizes(heads, depth):
    return {
        "hidden_size": 64 * heads,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": 256 * heads,
        "num_labels": CLASSES,
    }


def make_batch(size, pixels):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(size, pixels, pixels, 3)).astype("float32")
    labels = rng.dirichlet(np.full(CLASSES, 0.1), size).astype("float32")
    return images, labels, rng.normal(size=(size, CLASSES)).astype("float32")


def ours(args, config, batch):
    """The step of `tfdeit train`; on other backends than TensorFlow, the same model in `train_on_batch`."""
    policy = "mixed_bfloat16" if args.dtype == "bfloat16" else "float32"
    student = tfdeit.TFDeiTForImageClassificationWithTeacher(config, dtype=policy)
    optimizer = AdamW(RATE, DECAY)
    if keras.backend.backend() != "tensorflow":
        inputs = keras.Input((*config.image_hw, 3))
        outputs = student(inputs)
        return keras_step(inputs, outputs.cls_logits, outputs.distillation_logits, optimizer, batch)
    import tensorflow as tf

    from tfdeit.training.learner import Learner
    from tfdeit.training.losses import DistillationLoss
    from tfdeit.training.tasks import Classification

    images, labels, answers = map(tf.constant, batch)
    loss = SoftCrossEntropy()
    learner = Learner(student, Classification(loss, DistillationLoss(loss, "hard", ALPHA), lambda pixels: answers))
    learner.compile(optimizer)
    return lambda: float(learner.step(images, labels)["loss"])


def keras_step(inputs, cls_logits, distillation_logits, optimizer, batch):
    images, labels, answers = batch
    model = keras.Model(inputs, [cls_logits, distillation_logits])
    hard = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, [SoftCrossEntropy(), hard], loss_weights=[1 - ALPHA, ALPHA], jit_compile=True)
    targets = [labels, answers.argmax(axis=1)]
    return lambda: float(np.ravel(model.train_on_batch(images, targets))[0])


def keras_hub(args, config, batch):
    from keras_hub.models import DeiTBackbone

    policy = "mixed_bfloat16" if args.dtype == "bfloat16" else "float32"
    backbone = DeiTBackbone(
        image_shape=(*config.image_hw, 3),
        patch_size=config.patch_hw[0],
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        hidden_dim=config.hidden_size,
        intermediate_dim=config.intermediate_size,
        dtype=policy,
    )
    inputs = keras.Input((*config.image_hw, 3))
    tokens = backbone(inputs)
    heads = [keras.layers.Dense(CLASSES, dtype=policy)(tokens[:, i]) for i in range(2)]
    return keras_step(inputs, *heads, keras.optimizers.AdamW(RATE, DECAY), batch)


def pytorch(args, config, batch, compiled=False):
    import torch
    import transformers
    from torch.nn import functional as F

    device = "cuda" if torch.cuda.is_available() else "cpu"
    options = sizes(config.num_attention_heads, config.num_hidden_layers)
    options["image_size"] = config.image_hw[0]
    model = transformers.DeiTForImageClassificationWithTeacher(transformers.DeiTConfig(**options)).to(device).train()
    backbone = torch.compile(model.deit) if compiled else model.deit
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY, fused=device == "cuda")
    images, labels, answers = (torch.from_numpy(array).to(device) for array in batch)
    images, hard = images.permute(0, 3, 1, 2).contiguous(), answers.argmax(dim=1)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=args.dtype == "bfloat16"):
            tokens = backbone(images).last_hidden_state
            own, other = model.cls_classifier(tokens[:, 0]), model.distillation_classifier(tokens[:, 1])
        base = -(labels * F.log_softmax(own.float(), dim=1)).sum(dim=1).mean()
        loss = (1 - ALPHA) * base + ALPHA * F.cross_entropy(other.float(), hard)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def peak_flops(dtype):
    """FLOP/s of large matrix products, the faster of TensorFlow's and PyTorch's."""
    import tensorflow as tf
    import torch

    size = 8192 if tf.config.list_physical_devices("GPU") or torch.cuda.is_available() else 2048
    ones = tf.ones((size, size), getattr(tf, dtype))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    other = torch.ones((size, size), dtype=getattr(torch, dtype), device=device)
    product = tf.function(lambda: tf.reduce_sum(tf.cast((ones @ ones)[:1], tf.float32)))
    calls = (lambda: float(product()), lambda: (other @ other)[0, 0].item())
    best = min(min(seconds(call) for _ in range(8)) for call in calls)
    return 2 * size**3 / best


def seconds(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=HEADS, default="tiny")
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--pixels", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=2, help="steps that are timed together")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--peak", type=float, help="TFLOP/s of the device; measured if not given")
    parser.add_argument("--only", nargs="+", help="contestants")
    args = parser.parse_args()

    config = tfdeit.DeiTConfig(**sizes(HEADS[args.model], args.depth), image_size=args.pixels)
    batch = make_batch(args.batch, args.pixels)
    makers = {
        "tfdeit": ours,
        "keras_hub": keras_hub,
        "pytorch_eager": pytorch,
        "pytorch_compile": lambda *options: pytorch(*options, compiled=True),
    }
    what = {"benchmark": "train_step", "model": f"deit_{args.model}_distilled", "depth": args.depth}
    what |= {"pixels": args.pixels, "batch": args.batch, "dtype": args.dtype, "backend": keras.backend.backend()}
    calls = {}
    for name, make in makers.items():
        if args.only and name not in args.only:
            continue
        try:
            call = make(args, config, batch)
            losses = [call() for _ in range(3)]  # compiles
        except Exception as error:  # another library's, of any kind: the others are measured all the same
            reason = (str(error).splitlines() or [""])[0]
            print(json.dumps({**what, "contestant": name, "skipped": f"{type(error).__name__}: {reason}"}), flush=True)
            continue
        if not np.isfinite(losses).all():
            raise ValueError(f"Expected finite losses of {name}. Received: {losses}")
        calls[name] = call

    times = {name: [] for name in calls}
    for _ in range(args.rounds):
        for name, call in calls.items():
            times[name].append(seconds(lambda call=call: [call() for _ in range(args.steps)]) / args.steps)
    medians = {name: statistics.median(values) for name, values in times.items()}
    peak = args.peak * 1e12 if args.peak else peak_flops(args.dtype)
    flops = 6 * config.macs * args.batch
    for name, median in medians.items():
        line = {"contestant": name, "images_per_second": round(args.batch / median, 1)}
        line |= {"step_ms": round(1e3 * median, 1), "mfu": round(flops / median / peak, 3)}
        print(json.dumps({**what, **line}), flush=True)
    if "tfdeit" in medians:
        ratios = {f"times_{name}": round(m / medians["tfdeit"], 2) for name, m in medians.items() if name != "tfdeit"}
        theirs = [m for name, m in medians.items() if name.startswith("pytorch")]
        if theirs:
            ratios["times_best_pytorch"] = round(min(theirs) / medians["tfdeit"], 2)
        print(json.dumps({**what, "peak_tflops": round(peak / 1e12, 2), **ratios}), flush=True)


if __name__ == "__main__":
    main()
