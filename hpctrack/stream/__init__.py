"""The stream: journals on nodes, datagrams, the collector. Node-side modules use the standard library only."""
