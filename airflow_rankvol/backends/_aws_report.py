"""The report and the output on an instance's serial console (GetConsoleOutput)."""

from airflow_rankvol.backends._console import log_of, report_of

__all__ = ["log_of", "report_of"]
