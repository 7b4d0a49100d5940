"""Native mode: the production machines of entry peers, stages and clients in virtual time."""
