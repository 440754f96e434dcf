"""A group's member as librdkafka reads it (its format version 2): tag, generation, then strings that end with NUL."""

import struct

from streams.engine.transactions import Membership


def test_metadata_of_a_dynamic_member_ends_with_the_flag_that_there_is_no_instance() -> None:
    written = Membership("group", 7, "member-1").metadata()

    assert written == b"CGMDv2:" + struct.pack("=i", 7) + b"group\0member-1\0\x01"


def test_metadata_of_a_static_member_holds_its_instance() -> None:
    written = Membership("group", -1, "m", "worker-3").metadata()

    assert written == b"CGMDv2:" + b"\xff\xff\xff\xff" + b"group\0m\0" + b"\0worker-3\0"
