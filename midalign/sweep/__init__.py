"""Many forms of one experiment, trained, scored on the dev split and put side by side.

What a point changes under `align` is an arm of one recipe, whatever else it changes is a recipe of its own. A
baseline is trained once for all recipes whose task side is the same, the aligned languages apart. A merged
point is the baseline with an adapter of alignment alone added to it.
"""
