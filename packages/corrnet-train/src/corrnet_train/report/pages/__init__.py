"""Pages: HTML files that load nothing from elsewhere, and pictures in their place."""
