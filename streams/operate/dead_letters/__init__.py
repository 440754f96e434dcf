"""``tierstream dlq``: what stands in ``dead.letters``, and what operators decide on it.

A dead letter is *open* until an operator has replayed or discarded it. That is kept in ``dead.letters`` itself: behind the dead letter, on its
partition, stands a record without a value, whose headers name it (``letters.Mark``). It is written in one transaction with the record that
is produced again and with the operator's audit event, so a command that was cut off goes on where it was, and nothing is done twice.
"""
