"""``python -m experiments.reproduce``: the command ``distill-jax reproduce``."""

from distill_jax.cli.main import command

if __name__ == "__main__":
    command("reproduce")
