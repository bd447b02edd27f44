"""Evaluation: scores, metrics, calibration, report, pictures."""
