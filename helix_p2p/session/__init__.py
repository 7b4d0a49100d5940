"""One generation's life on client, entry peer and stages: events in, effects out."""
