"""Resolve the command line of ``explain`` from the shapes of its data, which for public data sets are known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
from tyro.conf import arg

from distill_jax.check_spec import check
from distill_jax.cli.cost.devices import DEVICES
from distill_jax.cli.request.arguments import Common, check_numbers, parse
from distill_jax.cli.request.read_data import assumed_shape, read, refuse_side
from distill_jax.data import SHAPES, TRAINING_IMAGES, count_classes
from distill_jax.recipes import Experiment
from distill_jax.types import Normaliser, RealData, lookup, require_at_least


@dataclass(frozen=True)
class Explain(Common):
    """Print shapes, parameter counts, arithmetic and bytes of a method on a data set, without computing anything.

    With --device, also compile a step for that accelerator, which this machine need not have, and print whether the run
    fits and how long it takes.
    """

    device: Annotated[str | None, arg(metavar="|".join(DEVICES))] = None
    """accelerator to compile a step for"""
    devices: Annotated[int, arg(help="number of these accelerators that share the run; 0: one")] = 0
    resident_images: int = 0
    """real images per class on the device at a time, as in experiments.distill; 0: all"""


class Resolved(NamedTuple):
    """A resolved command line, with the shapes of its data."""

    options: Explain
    recipe: str
    experiment: Experiment
    data: RealData
    """made of ``jax.ShapeDtypeStruct``"""


def resolved(argv: list[str]) -> Resolved:
    """Resolve ``METHOD DATASET [options]`` and check it against the data. Raise RequestError if it is invalid."""
    options, recipe, experiment = parse(argv, Explain)
    check_numbers(options.seed, options.devices)
    if options.device:
        lookup("device", options.device, DEVICES).topology(options.devices or 1)  # refuses a number that does not exist
    only = options.subset or ()
    if options.dataset in TRAINING_IMAGES:
        shape, whole = assumed_shape(options.dataset, options.side), SHAPES[options.dataset][1]
        each = TRAINING_IMAGES[options.dataset] // whole
        classes = count_classes(options.dataset, whole, only) if only else whole
        images = each * classes if only else TRAINING_IMAGES[options.dataset]
        counts = [each] * classes
    else:
        data = read(options.dataset, options.side, only)
        options, recipe, experiment = parse(argv, Explain, data.shape)
        shape, images, counts = data.shape, len(data.x_train), data.counts.tolist()
    refuse_side(options.dataset, options.side, shape)
    require_at_least(0, options, "resident_images")
    if options.resident_images:
        counts = [min(options.resident_images, count) for count in counts]
        images = sum(counts)
    check(experiment.spec, shape, counts)
    return Resolved(options, recipe, experiment, real_shapes(images, shape, counts))


def real_shapes(images: int, shape: tuple[int, int, int], counts: list[int]) -> RealData:
    """Return the shapes of a real training set of ``images`` images of ``shape`` (H, W, c)."""

    def array(dtype: type, *dims: int) -> jax.Array:
        return jax.ShapeDtypeStruct(dims, jnp.dtype(dtype))  # type: ignore[return-value]

    return RealData(
        images=array(jnp.uint8, images, *shape),
        labels=array(jnp.int32, images),
        index=array(jnp.int32, len(counts), max(counts)),
        counts=array(jnp.int32, len(counts)),
        normaliser=Normaliser(array(jnp.float32, shape[2]), array(jnp.float32, shape[2])),
    )
