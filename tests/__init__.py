"""The tests, a package because other libraries install a ``tests`` package too."""
