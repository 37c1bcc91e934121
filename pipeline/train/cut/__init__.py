"""Cutting a model: its frozen layers run once per image, its trained part in every epoch."""
