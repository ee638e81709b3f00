"""The report of a comparison: what was measured, in words and pictures, as one file."""

from jloss.report.page import page, write
from jloss.report.words import claims, summary, table_note, table_rows, verdict

__all__ = ["claims", "page", "summary", "table_note", "table_rows", "verdict", "write"]
