"""ECG-JEPA (Weimann & Conrad 2024). Chapter 07."""
