"""Trials of faults: kills, damaged files, a failing Hub, a full disk, hours of work. See __main__.py."""
