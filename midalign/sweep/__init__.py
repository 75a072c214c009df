"""Sweeps: train variants of an experiment, score them on the validation split and compare them.

A sweep file (`grid`) becomes points (`points`). Changes of `align` make an arm of a recipe, and other changes
make a recipe of their own. Recipes whose task side is equal, aligned languages aside, share a baseline. A
merged point adds an adapter of alignment alone to the baseline (`point_adapters`). Scores are compared
(`point_results`) and written to the sweep's folder (`result_files`).
"""
