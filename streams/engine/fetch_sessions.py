"""Incremental fetch sessions (KIP-227) for aiokafka's consumer.

aiokafka names every partition in every fetch, and the broker answers for every one. That is most of what a quiet consumer of many
partitions costs, on both sides. In a session a fetch names what has changed since the last one, and the answer holds what is new.

A session is the broker's memory of one connection's partitions and offsets, numbered by an epoch. Whenever the two sides may disagree (a
fetch without an answer, a session that the broker has dropped), the next fetch names everything and begins a new session.
"""

from typing import Any

from aiokafka.protocol.fetch import FetchRequest, FetchRequestStruct

FIRST_VERSION = 7
"""The fetch that knows sessions."""

LEADER_EPOCH_VERSION = 9
RACK_VERSION = 11

NO_SESSION, FIRST_EPOCH = 0, 0
MAX_EPOCH = 2**31 - 1
CONSUMER, UNKNOWN = -1, -1
NO_ERROR, SESSION_NOT_FOUND = 0, 70

TopicPartition = tuple[str, int]
Asked = tuple[int, int]
"""The offset to read from, and the most bytes to bring."""


class SessionFetch(FetchRequest):  # type: ignore[misc]  # aiokafka is untyped
    """A fetch of one session. ``topics`` has every partition, for aiokafka matches the answer with it; what is sent is ``changed``."""

    def __init__(
        self, fetch: FetchRequest, session: int, epoch: int, changed: dict[TopicPartition, Asked], forgotten: list[TopicPartition]
    ) -> None:
        super().__init__(fetch._max_wait_ms, fetch._min_bytes, fetch._max_bytes, fetch._isolation_level, fetch.topics, fetch._rack_id)
        self._session, self.epoch = session, epoch
        self._changed, self._forgotten = changed, forgotten

    def build(self, request_struct_class: type[FetchRequestStruct]) -> FetchRequestStruct:
        """Return the request in the version that the broker knows; before version 7 it names every partition."""
        version = request_struct_class.API_VERSION
        if version < FIRST_VERSION:
            return super().build(request_struct_class)
        leader_epoch = (UNKNOWN,) if version >= LEADER_EPOCH_VERSION else ()
        topics: dict[str, list[tuple[int, ...]]] = {}
        for (topic, partition), (offset, most_bytes) in self._changed.items():
            topics.setdefault(topic, []).append((partition, *leader_epoch, offset, UNKNOWN, most_bytes))
        forgotten: dict[str, list[int]] = {}
        for topic, partition in self._forgotten:
            forgotten.setdefault(topic, []).append(partition)
        limits = (self._max_wait_ms, self._min_bytes, self._max_bytes, self._isolation_level)
        rack = (self._rack_id,) if version >= RACK_VERSION else ()
        return request_struct_class(CONSUMER, *limits, self._session, self.epoch, list(topics.items()), list(forgotten.items()), *rack)


class FetchSession:
    """One node's session, as this side knows it. One fetch at a time."""

    def __init__(self) -> None:
        self._session, self._epoch = NO_SESSION, FIRST_EPOCH
        self._known: dict[TopicPartition, Asked] = {}

    def next(self, fetch: FetchRequest) -> SessionFetch:
        """Return ``fetch`` without what the broker knows already. Unless it is ``answered``, the one after it begins a new session, which
        ends this one: the broker may have counted it or not."""
        wanted = {(topic, partition): (offset, most) for topic, parts in fetch.topics for partition, offset, most in parts}
        epoch, self._epoch = self._epoch, FIRST_EPOCH
        known = {} if epoch == FIRST_EPOCH else self._known
        changed = {partition: asked for partition, asked in wanted.items() if known.get(partition) != asked}
        self._known = wanted
        return SessionFetch(fetch, self._session, epoch, changed, [partition for partition in known if partition not in wanted])

    def answered(self, fetch: SessionFetch, response: Any) -> None:
        """Go on with the session, unless the broker does not: it has dropped it, or has no room for one more."""
        if response.API_VERSION < FIRST_VERSION:
            return
        if response.error_code == NO_ERROR:
            self._session = response.session_id
            if self._session != NO_SESSION:
                self._epoch = 1 if fetch.epoch == MAX_EPOCH else fetch.epoch + 1
        elif response.error_code == SESSION_NOT_FOUND:
            self._session = NO_SESSION


class SessionClient:
    """aiokafka's client, with fetches in sessions. All else is the client's own."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._sessions: dict[int, FetchSession] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def send(self, node_id: int, request: Any, **options: Any) -> Any:
        """Send a request and return the response. Raises aiokafka's errors."""
        if not isinstance(request, FetchRequest):
            return await self._client.send(node_id, request, **options)
        session = self._sessions.setdefault(node_id, FetchSession())
        fetch = session.next(request)
        response = await self._client.send(node_id, fetch, **options)
        session.answered(fetch, response)
        return response
