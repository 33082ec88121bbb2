"""A reader's review: decisions on findings, kept in the record."""
