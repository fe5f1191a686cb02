"""The shortest sequence that still shows what the whole one showed."""

import json


def shrink(steps: list, fails) -> list:
    """Removes steps, takes scripts apart, and removes words, for as long as `fails` is true of what is left."""
    steps = without(steps, fails)
    for at in reversed(range(len(steps))):
        parts = parts_of(steps[at])
        if parts and fails(apart := steps[:at] + parts + steps[at + 1:]):
            steps = apart
    steps = without(steps, fails)
    for at in range(len(steps)):
        if not str(steps[at][0]).startswith("@"):
            def still_fails(words, at=at):
                return fails(steps[:at] + [steps[at][:2] + words] + steps[at + 1:])

            shorter = without(steps[at][2:], still_fails)
            steps = steps[:at] + [steps[at][:2] + shorter] + steps[at + 1:]
    return steps


def without(items: list, fails) -> list:
    """Removes items, halves first."""
    size = max(1, len(items) // 2)
    while items:
        at, removed = 0, False
        while at < len(items):
            fewer = items[:at] + items[at + size:]
            if fails(fewer):
                items, removed = fewer, True
            else:
                at += size
        if size > 1:
            size //= 2
        elif not removed:
            break
    return items


def parts_of(step: list) -> list:
    """The commands that a generated script runs."""
    if step[0] not in ("EVAL", "FCALL") or len(step) < 4:
        return []
    return [inner[1:] for inner in json.loads(step[3])]
