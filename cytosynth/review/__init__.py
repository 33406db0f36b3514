"""Web page for haematologists' blinded review of real and synthetic cells.

``mix`` → page, ``answers`` → ``results`` → ``report``.
"""
