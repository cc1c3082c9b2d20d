"""The console: one page on this machine that shows what the pipelines of the embedded AWS do, and lets you act.

Everything that it shows is read from AWS APIs, and only while a page is open.
"""
