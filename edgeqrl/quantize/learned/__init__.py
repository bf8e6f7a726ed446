"""Learned quantization: weights and scales trained so that the integer network acts as the float policy."""

from edgeqrl.quantize.learned.learn import FIRST_SEED, Learning, Told, learn, told_nobody

__all__ = ["FIRST_SEED", "Learning", "Told", "learn", "told_nobody"]
