"""ECG-JEPA: twelve leads, masked time (Weimann & Conrad 2024). Chapter 07."""
