"""Dataset distillation in JAX. ``types`` is the vocabulary, ``distill`` the algorithm; start with those two."""
