"""What several test folders share: a real server, a proxy that breaks connections, the contract of the adapters."""
