"""What is sent to the APIs (strict) and what they answer (lenient)."""

from __future__ import annotations

from airflow_provider_dstny.api.models.agents import Agent, AgentRun
from airflow_provider_dstny.api.models.calls import CallConversation
from airflow_provider_dstny.api.models.conversations import Conversation, GlobalFilters
from airflow_provider_dstny.api.models.directory import User
from airflow_provider_dstny.api.models.transcripts import Transcript, TranscriptSegment

__all__ = [
    "Agent",
    "AgentRun",
    "CallConversation",
    "Conversation",
    "GlobalFilters",
    "Transcript",
    "TranscriptSegment",
    "User",
]
