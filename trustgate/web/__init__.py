"""What pages for people are made of: HTML that is escaped by construction, their look, charts, static files."""
