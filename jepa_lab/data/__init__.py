"""Data sets: what they are, where they come from, and typed loaders. Knows nothing about models."""
