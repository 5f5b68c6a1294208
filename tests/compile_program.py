"""Compiles a program other than a step for an H100; prints the gigabytes of its temporaries. ``test_device`` runs it.

python -m tests.compile_program training|coreset
"""

import sys
from typing import Any

import jax
import jax.numpy as jnp

from distill_jax import evaluation, mesh
from distill_jax.axes.selector.rules import choose, herding
from distill_jax.cli.cost import fit
from distill_jax.cli.cost.devices import DEVICES
from distill_jax.cli.cost.shapes import real_shapes
from distill_jax.nets import ConvNet
from distill_jax.platform import compiled_for
from distill_jax.train_many import Sets, begin, train_epochs
from distill_jax.types import TrainSet


def _shape(*dims: int, dtype: Any = jnp.float32) -> Any:
    return jax.ShapeDtypeStruct(dims, dtype)


def _training() -> tuple[Any, tuple[Any, ...]]:
    """An epoch of one network on all images of ImageNet-10, in batches of 256."""
    net, n = ConvNet(depth=6).build((224, 224, 3), 10), 13_000
    data, keys = (
        real_shapes(n, (224, 224, 3), [n // 10] * 10),
        jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1)),
    )
    protocol = evaluation.DD_RANKING
    networks = jax.eval_shape(lambda keys: begin(net, protocol.network_optimiser, keys), keys)
    sets = Sets(TrainSet(data.images, _shape(n, 10)), _shape(1, n, dtype=jnp.int32))

    def epoch(networks: Any, *arrays: Any) -> Any:
        return train_epochs(net, protocol.course, 1, networks, protocol.network_optimiser, *arrays, 0, 1)

    return epoch, (networks, sets, data.normaliser)


def _coreset() -> tuple[Any, tuple[Any, ...]]:
    """Herding of all classes of ImageNet-1K at 64x64."""
    shape, n = (64, 64, 3), 1_281_000
    net, key = ConvNet().build(shape, 1000), jax.eval_shape(jax.random.key, 0)
    arrays = jax.eval_shape(net.init, key), real_shapes(n, shape, [n // 1000] * 1000), key
    return lambda model, data, key: choose(herding, net, model, data, 10, key, True), arrays


def temporaries(program: str) -> float:
    """Return the gigabytes of temporaries of ``program``."""
    with compiled_for("gpu"), mesh.over(fit.topology(DEVICES["h100"], 1)):
        f, arrays = {"training": _training, "coreset": _coreset}[program]()
        return 1e-9 * fit.memory_of(jax.jit(f).lower(*mesh.replicated(arrays)).compile()).temporaries


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    print(temporaries(sys.argv[1]))
