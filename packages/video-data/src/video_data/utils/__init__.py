"""Files, processes, progress and the counting of errors: nothing in here knows of videos."""
