"""Account, users, teams and departments of the simulated v1 account."""

from __future__ import annotations

from typing import Any

ACCOUNT: dict[str, Any] = {
    "id": "fb1919a3-3ba7-4427-b04e-b49a592804fc",
    "name": "Telco Demo",
    "created_at": "2026-01-10T17:31:07.548Z",
    "updated_at": "2026-02-07T12:00:00.000Z",
    "brand_name": "Dstny",
    "brand_logo_url": None,
}

_TEAM = {"id": "22222222-3333-4444-8555-666666666666", "name": "Sales"}
_PEOPLE = (
    ("67c869eb-30b1-4eb3-bd2c-be8c912a9827", "Erik Lindqvist", "erik.lindqvist@example.com", "owner"),
    ("67c869eb-30b1-4eb3-bd2c-be8c912a9828", "Sara Holm", "sara.holm@example.com", "member"),
    ("67c869eb-30b1-4eb3-bd2c-be8c912a9829", "Jonas Ek", "jonas.ek@example.com", "member"),
)

USERS: list[dict[str, Any]] = [
    {
        "id": user_id,
        "full_name": name,
        "email": email,
        "role": role,
        "team_id": _TEAM["id"],
        "team_name": _TEAM["name"],
    }
    for user_id, name, email, role in _PEOPLE
]
TEAMS: list[dict[str, Any]] = [
    {
        **_TEAM,
        "created_at": ACCOUNT["created_at"],
        "members": [{"id": user_id, "full_name": name, "email": email} for user_id, name, email, _ in _PEOPLE],
    }
]
DEPARTMENTS: list[dict[str, Any]] = [
    {
        "id": "11111111-0000-4000-8000-000000000001",
        "name": "B2B Sales",
        "slug": "b2b-sales",
        "enabled": True,
        "display_name": "Sales",
    },
    {
        "id": "11111111-0000-4000-8000-000000000002",
        "name": "Customer Success",
        "slug": "customer-success",
        "enabled": True,
        "display_name": "Success",
    },
]


def user_of(number: int) -> dict[str, Any]:
    """Return a user as a conversation shows it."""
    user = USERS[number % len(USERS)]
    return {"id": user["id"], "name": user["full_name"], "email": user["email"]}


def department_of(number: int) -> dict[str, Any]:
    """Return a department as a conversation shows it."""
    department = DEPARTMENTS[number % len(DEPARTMENTS)]
    return {"id": department["id"], "name": department["name"]}
