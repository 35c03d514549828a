"""Carries one connection between standard input and output and the broker that others run (components/external-broker).

    python3 relay.py amqp|api [probe]

It runs in a pod of the stack, which knows the broker's address and reaches it, also where whoever types commands does not.
Where the broker speaks TLS, that is spoken from here on. With ``probe`` it only looks whether the broker answers. In any
case it needs nothing but Python: its text is handed to pods, whose image may be an older one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import sys

__all__ = ["main"]

# Seconds for a connection. Across networks it takes tenths of one.
PATIENCE = 10

# Bytes of one read.
PART = 65536

# Where the pod's variables say what each of the two is.
VARIABLES = {
    "amqp": ("BROKER_SCHEME", "amqps", "BROKER_PORT"),
    "api": ("BROKER_API", "https", "BROKER_API_PORT"),
}


async def carry(host: str, port: int, tls: bool, probe: bool) -> None:
    """Returns when either end has said its last word.

    Raises:
        OSError: the broker can't be reached, or its certificate is not one of an authority that this image knows.
    """
    context = ssl.create_default_context() if tls else None
    reader, writer = await asyncio.wait_for(asyncio.open_connection(host, port, ssl=context), PATIENCE)
    if probe:
        writer.close()
        return
    said = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(said), sys.stdin.buffer)

    async def there() -> None:
        while part := await said.read(PART):
            writer.write(part)
            await writer.drain()

    async def back() -> None:
        while part := await reader.read(PART):
            sys.stdout.buffer.write(part)
            sys.stdout.buffer.flush()

    await asyncio.wait([asyncio.ensure_future(there()), asyncio.ensure_future(back())], return_when="FIRST_COMPLETED")
    # What was written last is still on its way.
    writer.close()
    with contextlib.suppress(OSError, TimeoutError):
        await asyncio.wait_for(writer.wait_closed(), PATIENCE)


def main(arguments: list[str]) -> int:
    scheme, secure, number = VARIABLES[arguments[0]]
    host, port = os.environ["BROKER_HOST"], os.environ[number]
    print(f"{host}:{port}", file=sys.stderr, flush=True)  # noqa: T201
    try:
        asyncio.run(carry(host, int(port), os.environ[scheme] == secure, "probe" in arguments))
    except (OSError, TimeoutError) as error:
        print(f"error: {getattr(error, 'strerror', None) or error or 'it does not answer'}", file=sys.stderr)  # noqa: T201
        return 1
    # At once: a thread of asyncio's may still wait for a name.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
