"""The stream: journals on nodes, datagrams, the collector. The node side is standard library only."""
