"""``python -m experiments.export``: the command ``distill-jax export``."""

from distill_jax.cli.main import command

if __name__ == "__main__":
    command("export")
