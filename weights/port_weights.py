#!/usr/bin/env python3
"""Converts checkpoints: the same as `tfdeit port`, for those who look for a script beside the weights."""

import sys

from tfdeit.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["port", *sys.argv[1:]]))
