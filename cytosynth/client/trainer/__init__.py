"""Client of the trainer service, one file per kind of resource."""
