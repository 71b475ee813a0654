"""What the settings of several objectives are checked for."""


def check_ranges(settings, *ranges):
    """Raises ValueError where a number is out of its range; `ranges` are (name, least, most)."""
    for name, least, most in ranges:
        if not least <= getattr(settings, name) <= most:
            raise ValueError(f"{name} must be {least} to {most}. Received: {getattr(settings, name)}")


def network_settings_from(settings, saved, names, init):
    """{name: value} of the network that a run takes over from the encoder `init`, whose settings are `saved`.

    Raises:
        ValueError: settings that ask for another network; those at their defaults ask for none.
    """
    kept = {name: getattr(saved, name) for name in names}
    other = [name for name in names if getattr(settings, name) not in (getattr(type(settings), name), kept[name])]
    if other:
        raise ValueError(
            f"With init the network is that of {init}. Leave out {', '.join(other)}, or take "
            + ", ".join(f"{name}={kept[name]}" for name in other) + "."
        )
    return kept
