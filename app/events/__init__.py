"""Following the event log and decoding it: what the monitor and Flower share.

follow.py    follows the log, over outages of the broker, and hands its messages to whoever keeps them
decoder.py   messages as typed events; what is malformed is counted
position.py  how far the log was taken
status.py    how following it goes
"""
