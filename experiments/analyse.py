"""``python -m experiments.analyse``: the command ``distill-jax analyse``."""

from distill_jax.cli.main import command

if __name__ == "__main__":
    command("analyse")
