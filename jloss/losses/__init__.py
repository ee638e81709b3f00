"""The catalogue: one file per family, each readable alone. The public names are in ``jloss``."""
