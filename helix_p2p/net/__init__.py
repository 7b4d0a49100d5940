"""Edges to the network: transports, channels, the DHT."""
