"""``python -m segdistill.dataset.scenes FOLDER`` draws the scenes data set in a new folder."""

import argparse
import sys
from collections.abc import Sequence

from segdistill.dataset.scenes.generator import generate


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m segdistill.dataset.scenes", description="Generate the scenes data set in a new folder."
    )
    parser.add_argument("folder")
    parser.add_argument("--num-train", type=int, default=400)
    parser.add_argument("--num-val", type=int, default=80)
    parser.add_argument("--num-test", type=int, default=20)
    parser.add_argument("--size", type=int, nargs=2, default=(128, 256), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    counts = (options.num_train, options.num_val, options.num_test)
    try:
        generate(options.folder, *counts, tuple(options.size), options.seed)
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
