"""Convolution and pooling that stay fast under second derivatives and inside ``scan``.

A convolution is a trilinear form ``<dy, x * kernel>``, so its derivatives of every order are convolutions of the same
three tensors. Two operators suffice, and the derivatives of each are expressed with the two:

    ``_conv(x, kernel)``          y; its input gradient is ``_conv`` of dy with the mirrored kernel
    ``_correlate(x, dy)``         the gradient of the kernel

Both are ``custom_vjp``, so no derivative contains jax's automatic weight gradient, for which XLA:CPU uses a naive
kernel inside a loop (jax issue 12868). Both are also ``custom_vmap``. With one operand batched they remain one big
convolution. With both batched (per-class or per-model filters) jax would emit a grouped convolution, whose backward
pass is slow on CPU and CUDA (jax issue 13800), so the convolutions are computed one by one.

Only ``_form`` decides which algorithm computes a convolution.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from operator import add
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jax.typing import DTypeLike

from distill_jax.nets import winograd
from distill_jax.platform import on_cpu, target
from distill_jax.types import Array, accumulator_dtype

Pads: TypeAlias = tuple[tuple[int, int], tuple[int, int]]
"""(top, bottom), (left, right)"""

_NO_PADS: Pads = ((0, 0), (0, 0))

MOST_UNROLLED = 16
"""largest batch of convolutions with different filters that a program for an accelerator unrolls"""


def conv2d(x: Array, kernel: Array, stride: int = 1, padding: int | None = None) -> Array:
    """Cross-correlate ``x`` [N, H, W, i] with ``kernel`` [kh, kw, i, o] -> [N, H', W', o], differentiable to any order.

    ``padding`` is the number of zeros on every side; None keeps the size at stride 1 (odd kernels). The computation is
    in the dtype of ``x``. The gradient of the kernel has the kernel's dtype and is accumulated in float32 or wider,
    except that a GPU rounds its sum to the dtype of ``x`` first.
    """
    kh, kw = kernel.shape[:2]
    vertical, horizontal = (kh // 2, kw // 2) if padding is None else (padding, padding)
    if kh == kw == 1 and vertical == horizontal == 0:
        return jnp.matmul(x[:, ::stride, ::stride], kernel[0, 0].astype(x.dtype))
    return _conv(x, kernel, stride, ((vertical, vertical), (horizontal, horizontal)))


def average_pool(x: Array, window: int = 2) -> Array:
    """Average each ``window`` x ``window`` square of [N, H, W, c]. Remaining rows and columns are dropped."""
    n, height, width, c = x.shape
    rows, columns = height // window, width // window
    x = x[:, : rows * window, : columns * window]
    squares = x.reshape(n, rows, window, columns, window, c)
    # The derivative is a broadcast, which fuses with its neighbours, unlike the derivative of ``reduce_window``.
    if target() == "tpu":  # explicit additions would copy the squares to other layouts
        return jnp.sum(squares, axis=(2, 4)) / window**2
    # Explicit additions take half the time of a reduction on CPU.
    taps = [squares[:, :, u, :, v] for u in range(window) for v in range(window)]
    return reduce(add, taps) / window**2


def max_pool(x: Array, window: int = 2, stride: int | None = None, padding: int = 0) -> Array:
    """Take the maximum of ``window`` x ``window`` squares of [N, H, W, c], ``stride`` apart (default: the window).

    ``padding`` is filled with -inf. The maxima are elementwise over the taps, because ``reduce_window`` with max cannot
    be differentiated twice in reverse mode. In a tie the first tap receives the gradient, as in PyTorch.
    """
    step = stride or window
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)), constant_values=-jnp.inf)
    taps = _taps(x, (window, window), step)
    best = taps[0]
    for tap in taps[1:]:
        best = jnp.where(tap > best, tap, best)
    return best


# ------------------------------------------------------------------ the two operators


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(x: Array, kernel: Array, stride: int, pads: Pads) -> Array:
    """[N, H, W, i], [kh, kw, i, o] -> [N, H', W', o]"""

    @custom_vmap
    def op(x: Array, kernel: Array) -> Array:
        return _conv_one(x, kernel, stride, pads)

    @op.def_vmap
    def _(size: int, batched: list[bool], x: Array, kernel: Array) -> tuple[Array, bool]:
        if not batched[1]:
            return _split(_conv(_merge(x, 0), kernel, stride, pads), size, 0), True
        if not batched[0]:
            return _split(_conv(x, _merge(kernel, 3), stride, pads), size, 3), True
        return _each(partial(_conv, stride=stride, pads=pads), x, kernel), True

    return op(x, kernel)


def _conv_fwd(x: Array, kernel: Array, stride: int, pads: Pads) -> tuple[Array, tuple[Array, Array]]:
    return _conv(x, kernel, stride, pads), (x, kernel)


def _conv_bwd(stride: int, pads: Pads, saved: tuple[Array, Array], dy: Array) -> tuple[Any, Any]:
    x, kernel = saved
    dy = _dilate(dy, stride, [x.shape[a] + sum(pads[a - 1]) - kernel.shape[a - 1] + 1 for a in (1, 2)])
    dx = _conv(dy, _mirror(kernel), 1, _mirror_pads(pads, kernel.shape[:2]))
    return dx, _correlate(x, dy, pads).astype(kernel.dtype)  # pyright: ignore[reportAttributeAccessIssue]


_conv.defvjp(_conv_fwd, _conv_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _correlate(x: Array, dy: Array, pads: Pads) -> Array:
    """[N, H, W, i], [N, H', W', o] -> [kh, kw, i, o]: the kernel's gradient at stride 1, in float32 or wider"""

    @custom_vmap
    def op(x: Array, dy: Array) -> Array:
        return _correlate_one(x, dy, pads)

    @op.def_vmap
    def _(size: int, batched: list[bool], x: Array, dy: Array) -> tuple[Array, bool]:
        if not batched[1]:
            return _split(_correlate(_merge(x, 3), dy, pads), size, 2), True
        if not batched[0]:
            return _split(_correlate(x, _merge(dy, 3), pads), size, 3), True
        return _each(partial(_correlate, pads=pads), x, dy), True

    return op(x, dy)


def _correlate_fwd(x: Array, dy: Array, pads: Pads) -> tuple[Array, tuple[Array, Array]]:
    return _correlate(x, dy, pads), (x, dy)


def _correlate_bwd(pads: Pads, saved: tuple[Array, Array], v: Array) -> tuple[Array, Array]:
    x, dy = saved
    return _conv(dy, _mirror(v), 1, _mirror_pads(pads, v.shape[:2])), _conv(x, v, 1, pads)


_correlate.defvjp(_correlate_fwd, _correlate_bwd)


# ------------------------------------------------------------------ algorithms for one pair of operands


def _each(f: Callable[[Array, Array], Array], a: Array, b: Array) -> Array:
    """Apply ``f`` to every pair of entries of ``a`` [B, ...] and ``b`` [B, ...], and stack the results."""
    if on_cpu() or len(a) > MOST_UNROLLED:
        return lax.map(lambda pair: f(*pair), (a, b))
    return jnp.stack([f(a[i], b[i]) for i in range(len(a))])


def _form(
    window: tuple[int, ...], stride: int, channels_in: int, channels_out: int, dtype: DTypeLike
) -> Literal["library", "patches", "shifts", "winograd"]:
    """Return the fastest algorithm on this platform. Accelerators always use their library.

    On CPU, 64 images of 16x16x128 -> 128 inside a scan (2 cores of AVX2, one thread) take 77 ms with the library and
    41 ms with Winograd; the kernel gradient takes 120 ms over patches and 77 ms with Winograd. The library is
    inefficient below 16 channels. Winograd needs 32 channels to pay for its transforms, and more precision than
    bfloat16.
    """
    if not on_cpu():
        return "library"
    if channels_in < 16:
        return "patches"
    if channels_out < 16 and stride == 1:
        return "shifts"
    if window == (3, 3) and stride == 1 and min(channels_in, channels_out) >= 64 and dtype != jnp.bfloat16:
        return "winograd"
    return "library"


def _conv_one(x: Array, kernel: Array, stride: int, pads: Pads) -> Array:
    kernel = kernel.astype(x.dtype)
    channels_in, channels_out = kernel.shape[2:]
    form = _form(kernel.shape[:2], stride, channels_in, channels_out, x.dtype)
    if form == "winograd":
        return winograd.convolve(_pad(x, pads), kernel)
    if form == "patches":
        return jnp.matmul(_patches(x, kernel.shape[:2], stride, pads), kernel.reshape(-1, channels_out))
    if form == "shifts":
        return _shifted_sum(x, kernel, pads)
    return lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _correlate_one(x: Array, dy: Array, pads: Pads) -> Array:
    if not on_cpu():
        # The library's kernel gradient has a fifth less memory traffic in a training step on a GPU than patches, and on
        # a TPU half the kernels. A float32 output would make cuDNN compute in float32, so the result is widened later.
        wide = accumulator_dtype(x.dtype)
        roles = ("CHWN", "IHWO", "HWNC")  # sums over images, where a forward convolution sums over channels
        result = wide if target() == "tpu" else x.dtype
        y = lax.conv_general_dilated(x, dy, (1, 1), pads, dimension_numbers=roles, preferred_element_type=result)
        return y.astype(wide)
    x = _pad(x, pads)
    kh, kw = window = tuple(x.shape[a] - dy.shape[a] + 1 for a in (1, 2))
    form = _form(window, 1, x.shape[3], dy.shape[3], x.dtype)
    if form == "winograd":
        return winograd.correlate(x, dy)
    if form == "patches":
        return _match(_patches(x, window, 1, _NO_PADS), dy).reshape(kh, kw, x.shape[3], dy.shape[3])
    # One kernel row at a time needs a third of the memory of all patches at once with many channels, at equal speed.
    rows = [_match(_patches(x[:, u : u + dy.shape[1]], (1, kw), 1, _NO_PADS), dy) for u in range(kh)]
    return jnp.stack(rows).reshape(kh, kw, x.shape[3], dy.shape[3])


def _match(patches: Array, dy: Array) -> Array:
    """[N, H, W, p], [N, H, W, o] -> [p, o], summed over all positions"""
    patches, dy = patches.reshape(-1, patches.shape[-1]), dy.reshape(-1, dy.shape[-1])
    # dy is the left operand, because its transpose is cheaper to pack.
    return lax.dot_general(dy, patches, (((0,), (0,)), ((), ())), preferred_element_type=accumulator_dtype(dy.dtype)).T


def _taps(x: Array, window: tuple[int, ...], stride: int) -> list[Array]:
    """Return the kh*kw strided slices of x [N, H, W, c], one for each position in the window: [N, H', W', c] each."""
    height, width = (stride * ((x.shape[a] - window[a - 1]) // stride) + 1 for a in (1, 2))
    return [x[:, u : u + height : stride, v : v + width : stride] for u in range(window[0]) for v in range(window[1])]


def _patches(x: Array, window: tuple[int, ...], stride: int, pads: Pads) -> Array:
    """[N, H, W, i] -> [N, H', W', kh*kw*i], in the order of ``kernel.reshape(-1, o)``"""
    return jnp.concatenate(_taps(_pad(x, pads), window, stride), axis=3)


def _shifted_sum(x: Array, kernel: Array, pads: Pads) -> Array:
    """Multiply first and then add the kh*kw shifted results, which is cheap if output channels are few."""
    kh, kw, i, o = kernel.shape
    z = _pad(jnp.matmul(x, kernel.transpose(2, 0, 1, 3).reshape(i, kh * kw * o)), pads)
    taps = [tap[..., t * o : (t + 1) * o] for t, tap in enumerate(_taps(z, (kh, kw), 1))]
    return sum(taps[1:], taps[0])


# ------------------------------------------------------------------ shapes


def _mirror(kernel: Array) -> Array:
    """Return the kernel of the transposed convolution: rotated by 180 degrees, with inputs and outputs exchanged."""
    return kernel[::-1, ::-1].swapaxes(2, 3)


def _mirror_pads(pads: Pads, window: tuple[int, ...]) -> Pads:
    (top, bottom), (left, right) = pads
    kh, kw = window
    return (kh - 1 - top, kh - 1 - bottom), (kw - 1 - left, kw - 1 - right)


def _pad(x: Array, pads: Pads) -> Array:
    """Pad [N, H, W, c] with zeros. Negative pads, which occur in a mirrored convolution, crop."""
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((low, high, 0) for low, high in pads), (0, 0, 0)])


def _dilate(dy: Array, stride: int, size: list[int]) -> Array:
    """Return the stride-1 equivalent of dy: ``stride - 1`` zeros between rows and columns, padded to ``size``."""
    if stride == 1:
        return dy
    steps = [(0, n - stride * (m - 1) - 1, stride - 1) for n, m in zip(size, dy.shape[1:3], strict=True)]
    return lax.pad(dy, jnp.zeros((), dy.dtype), [(0, 0, 0), *steps, (0, 0, 0)])


def _merge(x: Array, axis: int) -> Array:
    """Merge the leading axis of x into ``axis`` of the remaining axes: [B, ..., m, ...] -> [..., B*m, ...]."""
    x = jnp.moveaxis(x, 0, axis)
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def _split(x: Array, size: int, axis: int) -> Array:
    """Invert ``_merge``."""
    x = x.reshape(*x.shape[:axis], size, -1, *x.shape[axis + 1 :])
    return jnp.moveaxis(x, axis, 0)
