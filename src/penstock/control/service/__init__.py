"""The rules of the control plane. Every mutation is one transaction that also moves the feed's version; no HTTP here."""
