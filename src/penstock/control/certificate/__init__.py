"""The certificate of the API's own TLS: read from files that are watched, and obtained from an ACME authority where one is set.

`renewal` writes files and `served` reads them, whoever wrote them; they meet nowhere else. So several processes on one
folder need no word among them, and a certificate made by another program is taken up just as live.
"""
