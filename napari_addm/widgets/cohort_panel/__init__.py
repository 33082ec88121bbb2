"""The panel "Detect in a cohort"."""
