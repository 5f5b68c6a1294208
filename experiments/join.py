"""``python -m experiments.join``: the command ``distill-jax join``."""

from distill_jax.cli.main import command

if __name__ == "__main__":
    command("join")
