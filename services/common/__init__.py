"""What the services really share: names, stores, jobs, errors, images."""
