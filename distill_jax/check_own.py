"""Check the user's own classes before a run: trace each method once, and compare what it returns with its contract."""

from __future__ import annotations

import inspect
from typing import Any

import jax
import jax.numpy as jnp

from distill_jax import contracts
from distill_jax.spec import Spec, as_arrays, class_name, own_axes
from distill_jax.types import (
    Array,
    Model,
    Net,
    NetOutput,
    Normaliser,
    PyTree,
    RealData,
    RequestError,
    Shape,
    Synthetic,
    TrainSet,
)  # fmt: skip

TRACER_ERRORS = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)
BRANCHES = (
    "Arrays and fields annotated float are traced, so Python cannot branch on their values: use jnp.where or "
    "jax.lax.cond, or declare the field as static(default=...)."
)


def check_own(spec: Spec, shape: Shape, counts: list[int]) -> None:
    """Raise RequestError if a method of a user's own class returns what its contract does not allow.

    ``shape`` is (H, W, c) of the images, and ``counts`` has the number of real images of each class. Nothing is
    computed. An error in a method is raised as it is, with a note that names the class and the method.
    """
    own, spec = own_axes(spec), as_arrays(spec)
    if not own:
        return
    net, everything = spec.net.build(shape, len(counts)), _real_data(shape, counts)
    model = _check_net(spec.net, net, shape, len(counts)) if "net" in own else jax.eval_shape(net.init, _key())
    counts = [counts[c] for c in spec.classes] if spec.classes else counts
    classes, cells, factor = len(counts), spec.parameterisation.decoded(spec.ipc), spec.parameterisation.factor
    real, syn = spec.selector.batch, min(cells, spec.syn_batch or cells)
    stored, data, key = _array(classes, spec.ipc, *shape), _real_data(shape, counts), _key()
    model = model._replace(target=model.params) if spec.models.gives_target else model
    teachers = _several(model, spec.models.size) if spec.models.size else None
    if "models" in own and not spec.models.size:
        check_source(spec, net, None)
    if "perturb" in own:
        models = _several(model, spec.live)
        _check(spec.perturb, "perturb", models, models, key)
    if "selector" in own:
        state = _traced(spec.selector, "init", net, teachers, data)
        rows = _array(classes, real, dtype=jnp.int32)
        _check(spec.selector, "select", (rows, state), net, model, data, state, _array(dtype=jnp.int32), key)
    if "parameterisation" in own:
        _check(spec.parameterisation, "decode", _array(cells, *shape), _array(spec.ipc, *shape))
    if "augment" in own:
        draws = _traced(spec.augment, "draw", key, 1)
        draw = jax.tree.map(lambda a: _array(*a.shape[1:], dtype=a.dtype), draws)
        _check(spec.augment, "apply", _array(3, *shape), _array(3, *shape), draw)
    labels = _array(classes, cells, classes) if spec.labels.learned else None
    if "labels" in own:
        initial = TrainSet(_array(classes * cells, *shape), _array(classes * cells, classes))
        _check(spec.labels, "init", labels, net, teachers, initial)
    if "objective" in own and isinstance(spec.objective, contracts.ClassObjective):
        args = (_array(real, *shape), _array(syn, *shape), _array(dtype=jnp.int32), key)
        _check(spec.objective, "class_loss", _array(), net, model, *args)
    elif "objective" in own:
        images, learnable = _array(classes, syn, *shape), _traced(spec.objective, "learnable")
        args = (_array(classes, real, *shape), Synthetic(images, labels, learnable), key)
        _check(spec.objective, "set_loss", _array(), net, model, *args)
    if "optimiser" in own:
        state, scale = _traced(spec.optimiser, "init", stored), _array()
        outer = _array(dtype=jnp.int32)
        _check(spec.optimiser, "schedule", _array(), outer, outer)
        _check(spec.optimiser, "before", (stored, state), stored, state, scale)
        _check(spec.optimiser, "after", (stored, state), stored, stored, state, scale)
    if "update" in own:
        begun = _traced(spec.update, "begin", net, model, everything, key)
        synthetic = TrainSet(_array(classes * cells, *shape), _array(classes * cells, classes))
        _check(spec.update, "update", begun, net, *begun, everything, synthetic, key)
    if "init" in own:
        _check(spec.init, "images", stored, net, model, data, spec.ipc, factor, key)


def check_source(spec: Spec, net: Net, pool: PyTree) -> None:
    """Raise RequestError if the user's own source of models made a wrong ``pool``, or samples wrong models from it."""
    if "models" not in own_axes(spec):
        return
    models: Any = as_arrays(spec).models
    wrong = [a for a in jax.tree.leaves(pool) if jnp.shape(a)[:1] != (models.size,)]
    if models.size and (wrong or not jax.tree.leaves(pool)):
        found = _said(wrong[0]) if wrong else _said(pool)
        raise RequestError(
            f"{class_name(models)}.pretrain returns {found} instead of arrays with a leading axis of models.size = "
            f"{models.size}: {_contract(models, 'pretrain')}"
        )
    got = _traced(models, "sample", net, pool, spec.live, _array(dtype=jnp.int32), _key())
    want = _several(jax.eval_shape(net.init, _key()), spec.live)
    _compare(models, "sample", got, want._replace(target=getattr(got, "target", None)))
    if models.size and (teachers := _traced(models, "teachers", pool)) is not None:
        _compare(
            models, "teachers", teachers._replace(target=None), _several(jax.eval_shape(net.init, _key()), models.size)
        )


def _check_net(architecture: contracts.Architecture, net: Net, shape: Shape, classes: int) -> Model:
    """Return the shapes of a model of ``net``, which the user's own ``architecture`` built."""
    name = class_name(architecture)
    if not (hasattr(net, "init") and hasattr(net, "apply")):
        raise RequestError(f"{name}.build returns {_said(net)} instead of a network: see Net in distill_jax/types.py")
    try:
        hash(net)
    except TypeError:
        raise RequestError(f"{class_name(net)} is not hashable: make it a @dataclass(frozen=True)") from None
    model = _traced(net, "init", _key())
    if not isinstance(model, Model):
        raise RequestError(f"{class_name(net)}.init returns {_said(model)} instead of a Model")
    out = _traced(net, "apply", model, _array(3, *shape), True)
    if not (isinstance(out, tuple) and len(out) == 2 and isinstance(out[0], NetOutput)):
        raise RequestError(f"{class_name(net)}.apply returns {_said(out)} instead of (NetOutput, new statistics)")
    _compare(net, "apply", (out[0].logits, out[1]), (_array(3, classes), model.stats))
    return model


def _check(choice: Any, method: str, want: PyTree, *args: Any) -> None:
    _compare(choice, method, _traced(choice, method, *args), want)


def _traced(owner: Any, method: str, *args: Any) -> Any:
    """Return the shapes of what ``owner.method(*args)`` returns. As in a run, numbers of ``owner`` and arrays in
    ``args`` are traced."""
    fixed = {i: a for i, a in enumerate(args) if isinstance(a, int) or hasattr(a, "apply")}
    traced = {i: a for i, a in enumerate(args) if i not in fixed}

    def call(choice: Any, arrays: dict[int, Any]) -> Any:
        return getattr(choice or owner, method)(*(arrays[i] if i in arrays else fixed[i] for i in range(len(args))))

    try:
        return jax.eval_shape(call, owner if isinstance(owner, contracts.Choice) else None, traced)
    except RequestError:
        raise
    except Exception as error:
        error.add_note(f"This error is in {class_name(owner)}.{method}; the contract is {_contract(owner, method)}.")
        if isinstance(error, TRACER_ERRORS):
            error.add_note(BRANCHES)
        raise


def _compare(owner: Any, method: str, got: Any, want: Any) -> None:
    """Raise RequestError unless ``got`` has the structure, the shapes and the kinds of dtype of ``want``."""
    found, wanted, where, exact = got, want, "", method in ("before", "after", "update")
    if jax.tree.structure(got) == jax.tree.structure(want):
        pairs = zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True)
        wrong = [(path, a, b) for (path, a), b in pairs if a.shape != b.shape or _kind(a, exact) != _kind(b, exact)]
        if not wrong:
            return
        path, found, wanted = wrong[0]
        where = f" at {jax.tree_util.keystr(path)}" * bool(path)
    name, returns = f"{class_name(owner)}.{method}", f"returns {_said(found)} instead of {_said(wanted)}{where}"
    raise RequestError(f"{name} {returns}: {_contract(owner, method)}")


def _kind(a: Array, exact: bool) -> Any:
    """Return the dtype of ``a`` if it must be ``exact``, because a loop carries the array, else only its kind."""
    kinds = (jnp.floating, jnp.integer, jnp.generic)
    return a.dtype if exact else next(kind for kind in kinds if jnp.issubdtype(a.dtype, kind))


def _contract(owner: Any, method: str) -> str:
    """Return the declaration of ``method`` in the contract of ``owner``, with the first sentence of its docstring."""
    base = next(kind for kind in reversed(type(owner).__mro__) if method in vars(kind))
    declared = vars(base)[method]
    names = ", ".join(list(inspect.signature(declared).parameters)[1:])
    said = " ".join((inspect.getdoc(declared) or "").split()).partition(". ")[0].rstrip(".")
    return f"{base.__name__}.{method}({names}): {said}" if said else f"{base.__name__}.{method}({names})"


def _said(value: Any) -> str:
    """Describe shapes on one line."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype}{list(value.shape)}"
    if type(value) is tuple:
        return f"({', '.join(map(_said, value))})"
    return "None" if value is None else f"a {type(value).__name__}"


def _array(*dims: int, dtype: Any = jnp.float32) -> Any:
    return jax.ShapeDtypeStruct(dims, dtype)


def _key() -> Any:
    return jax.eval_shape(jax.random.key, 0)


def _several(model: Model, count: int) -> Model:
    return jax.tree.map(lambda a: _array(count, *a.shape, dtype=a.dtype), model)


def _real_data(shape: Shape, counts: list[int]) -> RealData:
    integers = {"dtype": jnp.int32}
    images, labels = _array(sum(counts), *shape, dtype=jnp.uint8), _array(sum(counts), **integers)
    index, sizes = _array(len(counts), max(counts), **integers), _array(len(counts), **integers)
    return RealData(images, labels, index, sizes, Normaliser(_array(shape[2]), _array(shape[2])))
