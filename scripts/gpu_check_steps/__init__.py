"""Steps of scripts/gpu_check.py."""
