"""``python -m tests.chaos --minutes 60 [--seed N]``: the chaos for long."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

from tests.chaos.chaos import Chaos


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        chaos = Chaos(Path(folder), arguments.seed)
        chaos.run(arguments.minutes * 60)
    print(f"{arguments.minutes:g} minutes, seed {arguments.seed}")
    print(chaos.report())
    return 1 if chaos.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
