"""A task of one's own that asks the API, and is retried when that may help, and not before the API said that it may.

With ``DstnyRetryPolicy``, a refused token, a missing scope and wrong input fail at once, whatever ``retries`` says. A
rate limit is waited for as long as the API said, a used-up daily quota until it starts anew. ``retries`` and
``retry_delay`` hold for all else. The policy may also stand in the ``default_args`` of a DAG, for all of its tasks.

Needs a connection ``dstny_rest_default`` whose token has the scope ``conversations``.
"""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

from airflow.sdk import dag, get_current_context, task

from airflow_provider_dstny.hooks.dstny_rest import DstnyRestHook

try:
    from airflow_provider_dstny.policies import DstnyRetryPolicy
except ImportError:
    # Before Airflow 3.3, retries are all alike.
    POLICY = {}
else:
    POLICY = {"retry_policy": DstnyRetryPolicy()}


@dag(schedule="@daily", catchup=False, tags=["dstny"], doc_md=__doc__)
def example_retry_policy() -> None:
    @task(retries=5, retry_delay=timedelta(seconds=30), **POLICY)
    def count_conversations() -> dict[str, int]:
        until = get_current_context()["dag_run"].run_after
        with DstnyRestHook().get_conn() as rest:
            found = rest.iter_conversations(date_from=until - timedelta(days=1), date_to=until)
            return Counter(str(one.medium) for one in found)

    count_conversations()


example_retry_policy()
