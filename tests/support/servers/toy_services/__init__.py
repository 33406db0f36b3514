"""Three tiny services behind a real gRPC server, with predictable answers."""
