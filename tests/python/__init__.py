"""The tests of the Python package, in rooms by what they promise.

`make test ROOM=serve` runs one.
"""
