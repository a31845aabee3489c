"""Sample people, companies and talk that the simulated accounts share. All of them are made up."""

from __future__ import annotations

import random
import uuid
from typing import Any, Literal, NamedTuple

#: How a transcript that does not exist yet is answered.
NotReady = Literal["404", "null", "empty", "blank"]


class Customer(NamedTuple):
    name: str
    company: str
    email: str


CUSTOMERS = (
    Customer("Jane Doe", "Acme", "jane@acme.example.com"),
    Customer("Nils Bergman", "Nordic Timber", "nils@timber.example.com"),
    Customer("Amira Haddad", "Haddad Logistics", "amira@haddad.example.com"),
    Customer("Tom Peeters", "Peeters Bikes", "tom@bikes.example.com"),
    Customer("Lucia Rossi", "Studio Rossi", "lucia@rossi.example.com"),
    Customer("Owen Clarke", "Clarke Dental", "owen@clarke.example.com"),
    Customer("Mai Tanaka", "Tanaka Ceramics", "mai@tanaka.example.com"),
)

_OPENING = (
    ("host", "Good morning, this is {host}. How can I help you?"),
    ("guest", "Hello, {guest} from {company}. I am calling about our switchboard."),
)
_TOPICS = (
    (
        ("guest", "The price is fine, but we need single sign-on before the summer."),
        ("host", "Single sign-on is part of the plan. I can send you the steps today."),
    ),
    (("guest", "Can we keep our phone numbers?"), ("host", "You can. Porting takes about two weeks.")),
    (
        ("guest", "Two of our colleagues work from home. Does that cost more?"),
        ("host", "No, a line is a line, wherever the phone is."),
    ),
    (
        ("guest", "Last month the invoice had a line that I did not understand."),
        ("host", "That was the one-time fee for the new handsets. It does not come back."),
    ),
    (
        ("guest", "We get many calls at lunch and miss some of them."),
        ("host", "Then a queue with a callback is the better choice. Let me show you."),
    ),
)
_CLOSING = (
    ("guest", "Good. Then let us start on the first of next month."),
    ("host", "I will write a summary and book the onboarding."),
    ("guest", "Thank you, talk to you soon."),
)


def talk(key: str, *, host: str, customer: Customer) -> list[tuple[str, str]]:
    """Return what ``host`` and ``guest`` say, (who, text) in order; the same for the same key."""
    topics = seeded(key).sample(_TOPICS, 3)
    lines = (*_OPENING, *(line for topic in topics for line in topic), *_CLOSING)
    return [(who, text.format(host=host, guest=customer.name, company=customer.company)) for who, text in lines]


def summary(customer: Customer) -> str:
    return f"{customer.company} accepts the offer. {customer.name} waits for the summary and an onboarding date."


def seeded(key: Any) -> random.Random:
    return random.Random(str(key))  # noqa: S311 - must be the same each time


def new_id(source: random.Random) -> str:
    return str(uuid.UUID(int=source.getrandbits(128), version=4))


def id_of(*parts: Any) -> str:
    """Return an id that follows from the parts."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "/".join(map(str, parts))))
