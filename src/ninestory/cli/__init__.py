"""The command line: parse arguments, call what is below, render. Heavy modules are imported by the command that needs them."""
