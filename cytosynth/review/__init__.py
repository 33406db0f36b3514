"""Blinded review of real and synthetic cells by haematologists, on a web page.

``mix`` → page, ``answers`` → ``results`` → ``report``.
"""
