"""When things happen: which steps a dispatch ends at, and what is due after it."""


def steps_to_event(config, chunk: int, longest: int, step: int) -> int:
    """Return the length of the next dispatch: up to the next evaluation, save or end.

    It is a whole number of chunks, and at most `longest`. It depends on nothing but the step, so a
    resumed run cuts the steps as the run that was never stopped would have.
    """
    events = [(step // every + 1) * every for every in (config.eval_every, config.save_every)]
    if config.profile_at > step:
        events.append(config.profile_at)
    distance = min(min(events), config.steps) - step
    return min(-(-distance // chunk) * chunk, longest)


def is_due(every: int, before: int, step: int, last: int) -> bool:
    """Return whether a multiple of `every` lies in (before, step], or the run ends."""
    return step // every > before // every or step == last
