"""Who is alive, who plans, which plan holds: pure state machines."""
