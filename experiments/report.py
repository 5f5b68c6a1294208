"""``python -m experiments.report``: the command ``distill-jax report``."""

from distill_jax.cli.main import command

if __name__ == "__main__":
    command("report")
