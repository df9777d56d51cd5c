"""Tables in, scored tables out."""
