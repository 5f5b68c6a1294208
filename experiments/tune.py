"""``python -m experiments.tune``: the command ``distill-jax tune``."""

from distill_jax.cli.main import command

if __name__ == "__main__":
    command("tune")
