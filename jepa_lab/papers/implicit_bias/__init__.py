"""Why JEPA skips noisy features (Littwin et al. 2024). Chapter 10."""
