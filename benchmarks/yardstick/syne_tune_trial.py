"""One trial of Syne Tune's."""

import argparse
import os
import sys

from jobs import Job
from trials import train

sys.path.append(os.environ["YARDSTICK_PEERS"])

from syne_tune import Reporter


def main() -> None:
    """Trains the configuration that the command line names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--number", type=int, required=True)
    parser.add_argument("--job", required=True)
    given, _ = parser.parse_known_args()
    report = Reporter()
    for epoch in train(Job.read(given.job), given.number):
        report(epoch=epoch.epoch, score=epoch.score)


if __name__ == "__main__":
    main()
