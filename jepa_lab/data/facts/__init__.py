"""Facts for the reversal curse: generated, real, sums."""
