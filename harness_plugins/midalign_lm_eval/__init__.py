"""lm-eval plug-in: midalign's tasks and models, by name, in every `lm_eval` of the environment.

A start-up file in site-packages imports this package at every start of Python, so it contains no code.
"""
