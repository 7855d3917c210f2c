"""Rows → legs and their shapes: joins in DuckDB, which know nothing of Services, owners or verdicts."""
