"""``make compose-test``: runs ``docker-compose.yml`` as it stands on a real Docker engine, breaks it, and counts what came out.

Where no engine answers, and this is a Debian machine with root, one is started in a directory of its own. Where the images can not be
pulled, stand-ins of the same names are built from Debian's packages: see ``docs/local-stack.md``.
"""
