"""Interactive figures that several chapters use."""
