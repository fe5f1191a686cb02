"""Prints the words of 64 hexadecimal digits that stand in the memory of a process: what a secret of the module's looks like.

Usage: memory_words.py PID
"""

import re
import sys

pid = int(sys.argv[1])
words = set()
with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb") as memory:
    for line in maps:
        place = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
        if not place:
            continue
        start, end = (int(number, 16) for number in place.groups())
        try:
            memory.seek(start)
            content = memory.read(end - start)
        except (OSError, ValueError):
            continue  # not memory that can be read: devices, the kernel's own
        words |= set(re.findall(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])", content))
print(*(word.decode() for word in sorted(words)))
