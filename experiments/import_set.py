"""``python -m experiments.import_set``: the command ``distill-jax import_set``."""

from distill_jax.cli.main import command

if __name__ == "__main__":
    command("import_set")
