"""lossatlas: papers about losses and learning, re-implemented, their claims checked by statistics."""

__version__ = "0.1.0"
