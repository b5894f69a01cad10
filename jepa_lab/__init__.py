"""JEPA Lab: joint-embedding predictive architectures, small enough to read and run.

Importing the package loads nothing heavy; import the room you need, e.g. ``from jepa_lab import masks``.
"""

__version__ = "0.1.0"
