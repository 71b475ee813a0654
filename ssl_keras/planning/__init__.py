"""Planning: what training costs, before it begins and while it runs."""
