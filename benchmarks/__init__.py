"""Speed of the engine against its peers, in one run: `python -m jepa_lab bench`, from a checkout only."""
