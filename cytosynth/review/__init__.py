"""A blinded review: haematologists label a mix of real and synthetic cells on a web page.

``draw_mix`` → page, ``answers`` → ``results`` → ``report``.
"""
