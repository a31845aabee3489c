"""Slots in Redis, or what speaks its protocol."""

from __future__ import annotations

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from airflow_provider_dstny.api.slots.base import Reservation, longest_queue

#: Seconds to wait for the server.
_TIMEOUT = 2.0

# All that is done with a key: its pause is prolonged, then a slot is taken unless it lies too far ahead.
# The same as in base.Kept, by the clock of the server. A key goes when neither slot nor pause lies ahead.
_SCRIPT = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
local spacing, patience, longest_pause, pause, longest_queue = unpack(ARGV)
local kept = redis.call('HMGET', KEYS[1], 'next_slot', 'paused_until')
local next_slot, paused_until = tonumber(kept[1] or 0), tonumber(kept[2] or 0)

paused_until = math.max(paused_until, now + pause)
local slot = math.max(paused_until, now)
if slot < next_slot and next_slot <= slot + longest_queue then
    slot = next_slot
end
local taken = slot - now <= tonumber(patience) and paused_until - now <= tonumber(longest_pause)
if taken then
    next_slot = slot + spacing
end
if taken or tonumber(pause) > 0 then
    redis.call('HSET', KEYS[1], 'next_slot', string.format('%.6f', next_slot),
               'paused_until', string.format('%.6f', paused_until))
    redis.call('EXPIRE', KEYS[1], math.ceil(math.max(next_slot, paused_until) - now) + 60)
end
return {string.format('%.6f', slot - now), string.format('%.6f', math.max(0, paused_until - now)), taken and 1 or 0}
"""
#: Stands for "any number of seconds": Lua reads no infinity everywhere.
_EVER = 1e9
#: Patience with which no slot is taken.
_NONE = -1.0


class RedisSlots:
    """Slots that all processes share which use the same Redis. redis-py reconnects after a loss and a fork.

    :param url: ``redis://`` or ``rediss://``.
    :raises ValueError: redis-py cannot use the URL.
    """

    blocking = True

    def __init__(self, url: str) -> None:
        # A connection that broke while nobody used it is opened anew, a server that is silent is not asked twice.
        retry = Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))
        self._server = redis.Redis.from_url(url, socket_timeout=_TIMEOUT, socket_connect_timeout=_TIMEOUT, retry=retry)
        self._script = self._server.register_script(_SCRIPT)

    def reserve(self, key: str, spacing: float, patience: float, longest_pause: float = float("inf")) -> Reservation:
        return self._run(key, spacing, min(patience, _EVER), min(longest_pause, _EVER), 0.0)

    def pause(self, key: str, seconds: float) -> None:
        self._run(key, 0.0, _NONE, _EVER, seconds)

    def pause_left(self, key: str) -> float:
        return self._run(key, 0.0, _NONE, _EVER, 0.0).paused

    def _run(self, key: str, spacing: float, *others: float) -> Reservation:
        arguments = [repr(float(one)) for one in (spacing, *others, longest_queue(spacing))]
        seconds, paused, taken = self._script([f"dstny:throttle:{key}"], arguments)
        return Reservation(float(seconds), float(paused), bool(taken))
