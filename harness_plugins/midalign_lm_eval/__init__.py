"""lm-eval plug-in: our tasks and models under their names in every `lm_eval` of the environment.

A start-up file in site-packages imports this at every Python start, so it stays empty of code.
"""
