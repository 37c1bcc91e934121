"""optuna-dashboard for the stored studies, and the notes and pictures that runs write for it."""
