"""I-JEPA and what is hidden. Chapter 01."""
