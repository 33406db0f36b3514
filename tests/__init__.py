"""The tests; a package, as other libraries install a package of this name too."""
