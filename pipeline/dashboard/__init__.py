"""optuna-dashboard over the stored studies, and what is written for it."""
