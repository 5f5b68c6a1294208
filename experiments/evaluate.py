"""``python -m experiments.evaluate``: the command ``distill-jax evaluate``."""

from distill_jax.cli.main import command

if __name__ == "__main__":
    command("evaluate")
