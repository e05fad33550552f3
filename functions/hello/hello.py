"""The smallest function: one method that writes its output."""


def hello(api, name: str = "world") -> None:
    """Greets whoever is named."""
    api.output.write(f"Hello, {name}!\n".encode())
