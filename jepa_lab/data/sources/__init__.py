"""Where data comes from: addresses, downloads, archives, the cache."""
