"""The paper's Table 1, measured by one command."""
