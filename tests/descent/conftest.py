"""Make the networks written for a single run importable as ``one_run``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
