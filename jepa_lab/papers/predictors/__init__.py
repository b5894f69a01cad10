"""Predictors and collapse. Chapter 02."""
