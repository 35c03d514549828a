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
    """Ends this process when either end has said its last word; as a probe it returns.

    Raises:
        OSError: the broker can't be reached, or its certificate is not one of an authority that this image knows.
    """
    context = ssl.create_default_context() if tls else None
    reader, writer = await asyncio.wait_for(asyncio.open_connection(host, port, ssl=context), PATIENCE)
    if probe:
        writer.close()
        return

    # Threads wait for both streams: one that asyncio waits for is one that others can't write to, where it is the same for both
    # directions; and whoever does not listen now may still have much to say.
    async def there() -> None:
        while part := await asyncio.to_thread(os.read, 0, PART):
            writer.write(part)
            await writer.drain()

    def say(part: bytes) -> None:
        sys.stdout.buffer.write(part)
        sys.stdout.buffer.flush()

    async def back() -> None:
        while part := await reader.read(PART):
            await asyncio.to_thread(say, part)

    await asyncio.wait([asyncio.ensure_future(there()), asyncio.ensure_future(back())], return_when="FIRST_COMPLETED")
    # What was written last is still on its way.
    writer.close()
    with contextlib.suppress(OSError, TimeoutError):
        await asyncio.wait_for(writer.wait_closed(), PATIENCE)
    # asyncio would wait for the threads.
    os._exit(0)


def main(arguments: list[str]) -> int:
    scheme, secure, number = VARIABLES[arguments[0]]
    host, port = os.environ["BROKER_HOST"], os.environ[number]
    print(f"{host}:{port}", file=sys.stderr, flush=True)  # noqa: T201
    try:
        asyncio.run(carry(host, int(port), os.environ[scheme] == secure, "probe" in arguments))
    except (OSError, TimeoutError) as error:
        print(f"error: {getattr(error, 'strerror', None) or error or 'it does not answer'}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
