"""Atomic files, locks, interrupts, leftovers of killed runs, and facts about the machine."""
