"""The queue `dead_letters`.

letter.py    one message of it
reading.py   all of it, read without taking anything out
sending.py   sends a letter once more, as if it had never died
words.py     how letters look
"""

from deploy.dead_letters.letter import Letter
from deploy.dead_letters.reading import QUEUE, Letters, connect

__all__ = ["QUEUE", "Letter", "Letters", "connect"]
