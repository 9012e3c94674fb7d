"""The rules that every layer keeps, each a function that looks at one."""
