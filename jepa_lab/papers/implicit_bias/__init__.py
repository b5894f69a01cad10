"""Implicit bias of deep linear self-distillation (Littwin et al. 2024). Chapter 10."""
