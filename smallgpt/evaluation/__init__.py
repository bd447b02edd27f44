"""Evaluation: scores, figures, calibration, report, pictures."""
