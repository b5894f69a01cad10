"""Electrocardiograms: records, simulator, WFDB files."""
