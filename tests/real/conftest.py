import sys
from pathlib import Path

# What the scripts themselves have on their path.
sys.path.append(str(Path(__file__).parents[2] / "scripts"))
