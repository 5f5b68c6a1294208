"""``python -m experiments.explain``: the command ``distill-jax explain``."""

from distill_jax.cli.main import command

if __name__ == "__main__":
    command("explain")
