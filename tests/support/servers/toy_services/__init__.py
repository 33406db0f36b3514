"""Three tiny services behind a real gRPC server; answers can be worked out by hand."""
