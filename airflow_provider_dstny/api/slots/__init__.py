"""Where the request slots of a token are kept: in this process, or where several processes see them."""

from __future__ import annotations

from airflow_provider_dstny.api.slots.base import LocalSlots, Reservation, Slots

__all__ = ["LocalSlots", "Reservation", "Slots"]
