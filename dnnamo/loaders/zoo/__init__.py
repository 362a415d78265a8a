"""Networks of other packages and files by name: one module a scheme, and what they share."""
