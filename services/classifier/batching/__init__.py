"""Dynamic batching: images of all callers, admitted by estimated wait, computed together."""
