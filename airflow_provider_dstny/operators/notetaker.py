"""Sending notetakers to meetings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException, BaseOperator

from airflow_provider_dstny.masking import PlainTextMixin
from airflow_provider_dstny.tasks import DstnyHookMixin, final_errors_fail

if TYPE_CHECKING:
    from datetime import datetime

    from airflow.providers.common.compat.sdk import Context, XComArg

    from airflow_provider_dstny.api.models.rest import Notetaker, NotetakerRequest

_FAILED = frozenset({"failed", "error", "rejected", "denied", "fatal"})


class DstnyRequestNotetakerOperator(PlainTextMixin, DstnyHookMixin, BaseOperator):
    """Has a notetaker join a Zoom, Microsoft Teams or Google Meet meeting. XCom: the id of the request.

    A wrong URL or time fails the task at once and nothing is sent. On Airflow 3.3 and later a retry re-attaches to
    a request that an earlier try sent; after a lost answer it fails with what to check, since the API does not
    tell which notetakers there are and a second one in a meeting is seen by everybody.

    :param meeting_url: the https link of the meeting (templated).
    :param meeting_title: stored with the request (templated).
    :param meeting_start_time: timezone-aware, ISO 8601 or datetime (templated); without it the notetaker joins
        at once.
    :param meeting_end_time: timezone-aware, after the start (templated).
    :param meeting_platform: a hint such as ``google_meet``; the API also tells it from the URL.
    :param dstny_conn_id: a connection of type ``dstny_rest``.
    :param resubmit_ambiguous: send again when it cannot be known whether an earlier try arrived.
    """

    conn_types = ("dstny_rest",)
    template_fields: Sequence[str] = (
        "meeting_url",
        "meeting_title",
        "meeting_start_time",
        "meeting_end_time",
        "dstny_conn_id",
    )
    ui_color = "#e9e2f3"

    def __init__(
        self,
        *,
        meeting_url: str | XComArg,
        meeting_title: str | XComArg | None = None,
        meeting_start_time: datetime | str | XComArg | None = None,
        meeting_end_time: datetime | str | XComArg | None = None,
        meeting_platform: str | None = None,
        dstny_conn_id: str = "dstny_rest_default",
        resubmit_ambiguous: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.meeting_url = meeting_url
        self.meeting_title = meeting_title
        self.meeting_start_time = meeting_start_time
        self.meeting_end_time = meeting_end_time
        self.meeting_platform = meeting_platform
        self.dstny_conn_id = dstny_conn_id
        self.resubmit_ambiguous = resubmit_ambiguous

    def execute(self, context: Context) -> str:
        from airflow_provider_dstny.submission import mark_done, send_once

        with final_errors_fail(self):
            request = self._request()
            with self.hook.get_conn() as rest:
                answers: list[Notetaker] = []

                def send() -> str:
                    answers.append(rest.request_notetaker(request))
                    return str(answers[0].id)

                notetaker_id = send_once(
                    context,
                    "a notetaker",
                    # Title and times may come of a template that renders anew on each try.
                    {"meeting_url": request.meeting_url},
                    send=send,
                    find=None,
                    resubmit_ambiguous=self.resubmit_ambiguous,
                )
        # A refused one is done with, too: clearing the task asks anew.
        mark_done(context)
        for notetaker in answers:
            self.log.info("Notetaker %s is %s", notetaker_id, notetaker.status or "requested")
            if str(notetaker.status).lower() in _FAILED:
                raise AirflowFailException(
                    f"Notetaker {notetaker_id} is {notetaker.status}. Check in Dstny that the meeting lets it in; "
                    "clear this task to ask again."
                )
        return notetaker_id

    def _request(self) -> NotetakerRequest:
        from airflow_provider_dstny.api.models.rest import NotetakerRequest

        fields = {
            "meeting_url": self.meeting_url,
            "meeting_title": self.meeting_title,
            "meeting_start_time": self.meeting_start_time,
            "meeting_end_time": self.meeting_end_time,
            "meeting_platform": self.meeting_platform,
        }
        # A template of something that was not given renders to nothing, or to the name of it.
        return NotetakerRequest.parse(
            {name: value for name, value in fields.items() if value not in (None, "", "None")}
        )
