"""asyncpg's plain COPY of the rows that the audit stage wrote, into a table of the same form. A process of its own; prints JSON.

``python -m bench.copy_rows copy``; ``... empty`` empties the audit log instead. The DSN is in BENCH_DSN.
"""

import asyncio
import json
import os
import sys
import time

import asyncpg


async def main(what: str) -> None:
    """Do it, and print how many rows took how many seconds."""
    connection = await asyncpg.connect(os.environ["BENCH_DSN"])
    try:
        if what == "empty":
            await connection.execute("truncate audit_log")
            result = {"rows": 0, "seconds": 0.0}
        else:
            rows = [tuple(row) for row in await connection.fetch("select * from audit_log")]
            await connection.execute("drop table if exists audit_copy")
            await connection.execute("create table audit_copy (like audit_log including all)")
            began = time.monotonic()
            await connection.copy_records_to_table("audit_copy", records=rows)
            result = {"rows": len(rows), "seconds": time.monotonic() - began}
    finally:
        await connection.close()
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
