"""Running notebooks, staging them, and building the book."""
