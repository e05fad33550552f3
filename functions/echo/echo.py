"""A stream both ways: each piece of input is output at once."""


def echo(api) -> None:
    """Copies the input to the output until it ends."""
    for chunk in api.input:
        api.output.write(chunk)
