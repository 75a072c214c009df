"""Middle-layer alignment for multilingual transfer: benchmark, trainer, evaluation, leaderboard."""

__version__ = "0.1.0"
