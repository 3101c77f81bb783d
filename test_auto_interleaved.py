"""Runs the whole suite: `python test_auto_interleaved.py [pytest arguments]`."""

import sys
from pathlib import Path

import pytest

if __name__ == "__main__":
    root = Path(__file__).parent
    sys.exit(pytest.main(["--rootdir", str(root), str(root / "tests"), *sys.argv[1:]]))
