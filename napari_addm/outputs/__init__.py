"""One case's outputs: files, record, figures and their verification."""
