"""What each proxy and server would take for the client's address, from its configuration alone.

`model` holds the settings of each product and the values that go in and out; one module a product holds its rules,
each with its source; `evaluate` picks the rules by the settings, `overtrust` says who may decide too much, and
`readers` turns small configurations into settings. Pure: nothing here asks the network or a file.
"""
