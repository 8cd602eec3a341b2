"""The processes and devices that share a run, through `tf.distribute`."""

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import keras
import tensorflow as tf

from tfdeit.data.loading import Pipeline
from tfdeit.training.learner import Learner


def choose_strategy() -> tf.distribute.Strategy:
    """Returns MultiWorkerMirroredStrategy if TF_CONFIG names several workers, MirroredStrategy for several GPUs.

    Otherwise returns the default strategy. Call it before TensorFlow computes anything.

    Raises:
        ValueError: if TF_CONFIG is not in the form that TensorFlow reads.
    """
    text = os.environ.get("TF_CONFIG")
    if text:
        try:
            config = json.loads(text)
            many = len(config["cluster"]["worker"]) + len(config["cluster"].get("chief", [])) > 1
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(
                'Expected TF_CONFIG to be {"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", '
                f'"index": 0}}}}. Received: {text!r}'
            ) from error
        if many:
            return tf.distribute.MultiWorkerMirroredStrategy()
    if len(tf.config.list_logical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


class Workers:
    """The worker processes of a strategy, as seen from this one.

    Args:
        strategy: the strategy.

    Attributes:
        count: number of processes.
        rank: number of this process, from 0.
        chief: whether this process evaluates and writes for all.
    """

    def __init__(self, strategy: tf.distribute.Strategy):
        self.strategy, self.count, self.rank = strategy, 1, 0
        resolver = strategy.cluster_resolver
        if resolver and resolver.task_type:
            cluster = resolver.cluster_spec().as_dict()
            before = len(cluster.get("chief", [])) if resolver.task_type == "worker" else 0
            self.count, self.rank = sum(map(len, cluster.values())), before + resolver.task_id
        self.chief = self.rank == 0
        self.devices = strategy.num_replicas_in_sync // self.count

    def vary_seeds(self, model: keras.Model):
        """Gives each other worker different random states from the chief's, which are those in the checkpoints."""
        weights = {id(variable) for variable in model.weights}
        for variable in model.variables:
            if id(variable) not in weights and self.rank:
                variable.assign(keras.ops.add(variable, [self.rank, 0]))

    def batches(self, pipeline: Pipeline, step: int) -> Iterator:
        """Yields the batches from a step on."""
        if self.count == 1:
            yield from pipeline.dataset(step)
            return
        # With several workers, tf.data places some functions on the chief and fails: `finish` runs in a thread instead.
        batches = iter(pipeline.host(step))
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(lambda: pipeline.finish(next(batches)))
            while True:
                batch = ahead.result()
                ahead = pool.submit(lambda: pipeline.finish(next(batches)))
                yield batch

    def distributed(self, learner: Learner) -> Callable:
        """Returns the step of all workers: (own batch, whether to stop) -> mean figures, "stop" > 0 if any stops."""
        strategy = self.strategy
        if strategy.num_replicas_in_sync == 1:
            return lambda batch, stop: {**learner.step(*batch), "stop": stop}

        def step(pixel_values, labels, stop):
            figures = {**learner.step(pixel_values, labels), "stop": stop}
            names[:] = figures
            return tf.stack(list(figures.values()))

        names: list[str] = []

        @tf.function(autograph=False)
        def run(pixel_values, labels, stop):
            values = strategy.run(step, (pixel_values, labels, stop))
            return strategy.reduce(tf.distribute.ReduceOp.MEAN, values, axis=None)

        def call(batch, stop):
            means = tf.unstack(run(*map(self.split, batch), tf.constant(float(stop))))
            return dict(zip(names, means, strict=True))

        return call

    def split(self, batch: tf.Tensor):
        """Returns a batch of this worker, split among its devices."""
        if self.devices == 1:
            return batch
        parts = tf.split(batch, self.devices)
        return self.strategy.experimental_distribute_values_from_function(
            lambda context: parts[context.replica_id_in_sync_group % self.devices]
        )
