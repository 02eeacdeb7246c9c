"""Results as people see them: figures, pages, and tables for the terminal."""
