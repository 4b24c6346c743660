"""lm-eval's tasks on pa-lite's engine (extra `harness`)."""
