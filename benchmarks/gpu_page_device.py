"""Print the device and the versions that ``gpu_page`` measures with, as one line of JSON."""

import json
import time
from importlib import metadata, util

from distill_jax.cli.process.clock import environment

if __name__ == "__main__":
    torch = metadata.version("torch") if util.find_spec("torch") else None
    print(
        json.dumps(
            {**environment(), "jaxlib": metadata.version("jaxlib"), "torch": torch, "date": time.strftime("%Y-%m-%d")}
        )
    )
