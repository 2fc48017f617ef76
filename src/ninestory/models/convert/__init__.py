"""From one file format to another, streaming: sizes first, then one block of rows at a time, then a rename."""
