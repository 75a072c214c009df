"""COMET (Rei et al. 2020) in an environment and a process of its own: its pins do not fit ours."""
