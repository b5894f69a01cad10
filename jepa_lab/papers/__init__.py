"""One file per paper: what is new in it, composed from the rooms."""
