"""Data sets: fetching, one file per modality."""
