"""The embedded services: a real Apache Kafka and a real PostgreSQL from Python packages, and the supervisor of all processes.

Nothing here needs Java, Maven, Docker or a system PostgreSQL. It needs the extra ``embedded``.
"""
