"""What the report is made of: reading runs, charts, sentences, sections, moving pictures."""
