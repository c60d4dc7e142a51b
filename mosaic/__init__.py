"""MOSAIC companion: SAE features for classification, reproduced, checked and extended."""

__version__ = "0.1.0"
