"""Study files: their typed form, the registries that fill it, and how it is read and validated."""
