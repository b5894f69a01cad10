"""Is the reversal curse a binding problem? (Wang & Sun 2025). Chapter 11."""
