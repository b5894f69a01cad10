"""Speed of the engine against its peers, measured in one run: `python -m jepa_lab bench`. Found from a checkout only."""
