"""A recorded call to push into Dstny."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, HttpUrl, StrictStr, TypeAdapter, ValidationError, model_validator

from airflow_provider_dstny.api.models.base import Payload
from airflow_provider_dstny.api.models.types import Boolean, Email, Seconds, Text, Timestamp

#: Start, end and duration are measured and rounded by different machines.
_TOLERANCE = timedelta(seconds=1)
_http_url = TypeAdapter(HttpUrl)


def _recording_url(value: str) -> str:
    try:
        url = _http_url.validate_python(value)
    except ValidationError:
        raise ValueError("must be an http or https URL") from None
    if url.username or url.password:
        raise ValueError("must be publicly accessible, without a user or password in it")
    return value


RecordingUrl = Annotated[StrictStr, AfterValidator(_recording_url)]


class CallConversation(Payload):
    """The body of *Create a new call conversation*.

    ``call_start_time`` and ``call_end_time`` are timezone-aware (ISO 8601 or datetime, sent in UTC);
    ``call_duration`` is in seconds. One of end and duration is needed; with both, they must agree within
    a second. ``call_recording_url`` must answer 200 to anybody, because Dstny fetches it.
    """

    call_external_id: Text
    call_start_time: Timestamp
    call_end_time: Timestamp | None = None
    call_duration: Seconds | None = None
    call_recording_url: RecordingUrl
    call_is_stereo: Boolean | None = None
    call_direction: Literal["incoming", "outgoing"]
    call_title: Text | None = None
    call_outcome: Text | None = None
    call_participant_channel: Literal["left", "right"] | None = None
    owner_email: Email
    owner_name: Text | None = None
    owner_phone_number: Text | None = None
    participant_email: Email | None = None
    participant_first_name: Text | None = None
    participant_last_name: Text | None = None
    participant_phone_number: Text | None = None
    participant_company_name: Text | None = None
    participant_external_id: Text | None = None

    @model_validator(mode="after")
    def _end_and_duration_agree(self) -> Self:
        if self.call_end_time is None:
            if self.call_duration is None:
                raise ValueError("call_end_time or call_duration is required")
            return self
        lasted = self.call_end_time - self.call_start_time
        if lasted < timedelta(0):
            raise ValueError("call_end_time must not be before call_start_time")
        if self.call_duration is not None and abs(lasted - timedelta(seconds=self.call_duration)) > _TOLERANCE:
            raise ValueError(
                f"call_duration is {self.call_duration} s, but call_end_time is "
                f"{lasted.total_seconds():g} s after call_start_time"
            )
        return self

    @model_validator(mode="after")
    def _stereo_has_a_channel(self) -> Self:
        if self.call_is_stereo and self.call_participant_channel is None:
            # Documented as the API's own default; sent, so that nobody has to know it.
            return self.model_copy(update={"call_participant_channel": "right"})
        return self
