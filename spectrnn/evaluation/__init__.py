"""Evaluation: metrics, calibration, threshold tuning, plots and the report."""
