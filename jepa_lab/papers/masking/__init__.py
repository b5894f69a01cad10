"""I-JEPA and what is hidden (Assran et al. 2023). Chapter 01."""
