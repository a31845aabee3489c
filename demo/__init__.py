"""The demo: the example DAG on a real Airflow, against the simulator."""
