"""What is asked for: pure models, without Airflow, SDKs or I/O."""
