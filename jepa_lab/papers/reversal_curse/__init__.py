"""The reversal curse as a binding problem (Wang & Sun 2025). Chapter 11."""
