"""The arithmetic and traffic of a program, computed from its jaxpr without compiling or running it.

XLA's own analysis counts the body of a loop once. Here the body of a scan counts once per iteration.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.extend.core import Jaxpr, JaxprEqn, jaxprs_in_params
from jax.interpreters.partial_eval import dce_jaxpr

from distill_jax.micro_batches import whole_batches
from distill_jax.tree import nbytes


class Cost(NamedTuple):
    """The cost of the convolutions and matrix products of a program. All other operations are assumed to be fused."""

    flops: int = 0
    """number of multiplications and additions, including those with zero padding"""
    bytes: int = 0
    """bytes of operands read and results written, for whole batches"""
    open_loops: int = 0
    """number of loops of unknown length, whose bodies count once"""

    def __add__(self, other: tuple[int, ...]) -> Cost:  # type: ignore[override]
        return Cost(*(a + b for a, b in zip(self, other, strict=True)))

    def times(self, n: int) -> Cost:
        """Return the cost of ``n`` runs of the program. The number of open loops does not change."""
        return Cost(self.flops * n, self.bytes * n, self.open_loops)


def cost(f: Callable[..., Any], *args: Any) -> Cost:
    """Return the cost of ``f(*args)``. ``args`` may be ``jax.ShapeDtypeStruct``."""
    with whole_batches():
        closed = jax.make_jaxpr(f)(*args)
    # The compiler drops unused results, such as the gradient of an input that a derivative rule always computes.
    live, _ = dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    return of_jaxpr(live)


def of_jaxpr(jaxpr: Jaxpr) -> Cost:
    """Sum the cost of all equations. A scan costs its body times its length, a condition its most expensive branch."""
    return sum((_of_equation(eqn) for eqn in jaxpr.eqns), Cost())


def _of_equation(eqn: JaxprEqn) -> Cost:
    name = eqn.primitive.name
    if name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return _arithmetic(eqn, math.prod(_shape(eqn.invars[0])[axis] for axis in contracted))
    if name == "conv_general_dilated":
        # Every output element is a sum over the kernel's window and the input channels of one group.
        kernel, numbers = _shape(eqn.invars[1]), eqn.params["dimension_numbers"]
        return _arithmetic(eqn, math.prod(kernel) // kernel[numbers.rhs_spec[0]])
    inner = [of_jaxpr(jaxpr) for jaxpr in jaxprs_in_params(eqn.params)]
    if name == "cond":
        return max(inner)
    total = sum(inner, Cost())
    if name == "scan":
        return total.times(eqn.params["length"])
    # A loop without arithmetic, such as one that draws random numbers, does not count as open.
    return total._replace(open_loops=total.open_loops + 1) if name == "while" and total.flops else total


def _arithmetic(eqn: JaxprEqn, terms: int) -> Cost:
    """Return the cost of an equation whose every result is a sum of ``terms`` products."""
    (out,) = eqn.outvars
    return Cost(2 * math.prod(_shape(out)) * terms, nbytes([var.aval for var in (*eqn.invars, out)]))


def _shape(var: Any) -> tuple[int, ...]:
    return var.aval.shape
