"""What is sent to the APIs (strict) and what they answer (lenient)."""

from __future__ import annotations

from airflow_provider_dstny.api.models.agents import Agent, AgentDefinition, AgentRequest, AgentRun
from airflow_provider_dstny.api.models.calls import CallConversation
from airflow_provider_dstny.api.models.conversations import Conversation, GlobalFilters
from airflow_provider_dstny.api.models.directory import (
    Department,
    Team,
    TeamCreate,
    TeamUpdate,
    User,
    UserCreate,
    UserUpdate,
)
from airflow_provider_dstny.api.models.rest import (
    Account,
    Insight,
    Notetaker,
    NotetakerRequest,
    Recording,
    RestConversation,
    RestConversationPage,
    RestDepartment,
    RestTeam,
    RestUser,
    Summary,
    WebhookDelivery,
)
from airflow_provider_dstny.api.models.tellcasey import CaseyConversation, CaseyConversationPage
from airflow_provider_dstny.api.models.transcripts import Transcript, TranscriptSegment

__all__ = [
    "Account",
    "Agent",
    "AgentDefinition",
    "AgentRequest",
    "AgentRun",
    "CallConversation",
    "CaseyConversation",
    "CaseyConversationPage",
    "Conversation",
    "Department",
    "GlobalFilters",
    "Insight",
    "Notetaker",
    "NotetakerRequest",
    "Recording",
    "RestConversation",
    "RestConversationPage",
    "RestDepartment",
    "RestTeam",
    "RestUser",
    "Summary",
    "Team",
    "TeamCreate",
    "TeamUpdate",
    "Transcript",
    "TranscriptSegment",
    "User",
    "UserCreate",
    "UserUpdate",
    "WebhookDelivery",
]
