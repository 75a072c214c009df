"""COMET (Rei et al. 2020) in a separate environment and process: its dependencies conflict with ours."""
