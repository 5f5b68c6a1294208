"""``python -m experiments.pretrain``: the command ``distill-jax pretrain``."""

from distill_jax.cli.main import command

if __name__ == "__main__":
    command("pretrain")
