"""Files that are whole or absent, locks, interrupts, what killed runs left behind, and the machine."""
