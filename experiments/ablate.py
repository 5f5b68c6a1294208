"""``python -m experiments.ablate``: the command ``distill-jax ablate``."""

from distill_jax.cli.main import command

if __name__ == "__main__":
    command("ablate")
