"""Interactive figures: each works in the rendered page without a kernel and, where it can, on live Python with one."""
