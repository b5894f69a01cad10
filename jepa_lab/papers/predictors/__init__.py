"""Predictors and collapse (ablations of I-JEPA; BYOL, SimSiam, VICReg, LeJEPA). Chapter 02."""
