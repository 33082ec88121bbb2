"""The panel "Detect anomalies"."""
