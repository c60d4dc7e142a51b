"""MOSAIC companion: SAE features for classification, reproduced, checked and extended."""

from pathlib import Path

__version__ = "0.1.0"

ASSETS = Path(__file__).resolve().parent / "assets"
"""What ships with the package: profiles, catalogues, claims, published scores, the mini world."""
