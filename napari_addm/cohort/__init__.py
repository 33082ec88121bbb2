"""Cohorts: find the cases, run them, report them."""
