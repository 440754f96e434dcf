"""Two processes under one instance id: the one that is thrown out ends, and says why.

A static member that joins takes the place of the member that has its instance id (KIP-345). That is what a restart needs, and whoever is
thrown out while it runs must not do the same: both would go on for ever, in turn. aiokafka joins again whenever the coordinator does not
know its member id, so before it does, the group is asked who has the id now.

| the id is then | so |
| --- | --- |
| nobody's: the session has expired | this worker was silent for too long, and joins again |
| this member's own | the group has gone on without it, and it joins again |
| another member's | another process was started with the same id: this one ends |
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiokafka.errors import KafkaError as ClientError
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from streams.errors import InstanceIdTaken, KafkaUnavailable
from streams.kafka.client import client_config
from streams.settings import PREFIX, Settings

ASK_SECONDS = 5.0
"""How long Kafka may take to say who is in the group."""

SETTLE_SECONDS = 2.0
"""How long a join that is under way may take, before whether this process was thrown out is left unsaid."""

_UNKNOWN_MEMBER = ""

Holder = Callable[[], str | None]
"""Returns the id of the member that has the instance id now, None when nobody has. Blocking. Raises KafkaUnavailable."""


def holder_in(settings: Settings, group: str) -> Holder:
    """Return what asks Kafka which member of ``group`` has the instance id of ``settings``."""

    def ask() -> str | None:
        admin = AdminClient(client_config(settings), logger=logging.getLogger("librdkafka"))
        try:
            described = admin.describe_consumer_groups([group], request_timeout=ASK_SECONDS)[group].result(2 * ASK_SECONDS)
        except (KafkaException, TimeoutError) as error:
            raise KafkaUnavailable(f"Kafka does not answer (members of {group}).") from error
        return next((member.member_id for member in described.members or () if member.group_instance_id == settings.instance_id), None)

    return ask


class InstanceIdGuard:
    """Watches over a static member's joins. Use it from the event loop of its consumer."""

    def __init__(self, coordinator: Any, instance_id: str, holder: Holder) -> None:
        """``coordinator`` is aiokafka's of the group, whose joins are watched from now on."""
        self._coordinator = coordinator
        self._instance_id = instance_id
        self._holder = holder
        self._join: Callable[[Any], Awaitable[bool]] = coordinator._do_rejoin_group
        self._joining = asyncio.Lock()
        self._member_id: str | None = None
        """The member id that Kafka knows this process by; None before the first join, and after one whose answer was lost."""
        self.taken: InstanceIdTaken | None = None
        """Set once another process is found to have the id. This one does not join any more."""
        coordinator._do_rejoin_group = self._rejoin

    async def find(self) -> InstanceIdTaken | None:
        """Return the error when another process has the id; None also when that can not be said soon."""
        with contextlib.suppress(TimeoutError, KafkaUnavailable):
            async with asyncio.timeout(SETTLE_SECONDS), self._joining:
                await self._look()
        return self.taken

    async def _rejoin(self, subscription: Any) -> bool:
        """Join as aiokafka does, unless another process has the id."""
        async with self._joining:
            if not self.taken:
                joined = await self._join_unless_taken(subscription)
            if not self.taken:
                return joined
        await asyncio.wait([self._coordinator._closing])
        return False

    async def _join_unless_taken(self, subscription: Any) -> bool:
        if self._coordinator.member_id == _UNKNOWN_MEMBER:
            try:
                await self._look()
            except KafkaUnavailable:
                await asyncio.sleep(self._coordinator._retry_backoff_ms / 1000)
                return False  # nor could it join
            if self.taken:
                return False
        try:
            return await self._join(subscription)
        except ClientError:  # FENCED_INSTANCE_ID, which aiokafka does not know, or anything else
            with contextlib.suppress(KafkaUnavailable):
                await self._look()
            if self.taken:
                return False
            raise
        finally:
            self._member_id = self._coordinator.member_id or None

    async def _look(self) -> None:
        if self.taken or self._member_id is None:
            return
        holder = await asyncio.to_thread(self._holder)
        if holder not in (None, self._member_id):
            self.taken = InstanceIdTaken(
                f"Another process was started with this one's {PREFIX}INSTANCE_ID, {self._instance_id}, and has taken its place; this one "
                "stops. Give each worker process of a stage an id of its own."
            )
