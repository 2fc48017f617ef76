"""Data only: one TOML a system, chat templates, licences, sizes, known pitfalls. Read by models/catalogue.py."""
