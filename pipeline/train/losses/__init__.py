"""What a trial is trained on: from logits, labels and a teacher's logits to one loss a lane."""
