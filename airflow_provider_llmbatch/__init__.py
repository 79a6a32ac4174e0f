"""LLM batch inference inside Apache Airflow: one way to use the batch APIs of every provider."""

__version__ = "0.1.0"
