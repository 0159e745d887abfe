"""The name under which EC2's adapter knows shared looks."""

from __future__ import annotations

from airflow_rankvol.backends._looks import Looks

__all__ = ["Looks"]
