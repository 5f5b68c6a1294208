"""``python -m experiments.distill``: the command ``distill-jax distill``."""

from distill_jax.cli.main import command

if __name__ == "__main__":
    command("distill")
