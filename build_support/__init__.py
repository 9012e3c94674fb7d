"""How pylayers is built, and packages with kernels of their own."""
