"""Trust in a checkpoint: what in it would run as code, and when that is allowed.

Arrays, the config and karpjax's own tasks run nothing of a stranger's. A task file's text does, and
so do modules that the config names. Training, a resume and config.init_from execute none of these:
they run the file that --config names. `karpjax.restore` must, to know the model.
"""
from karpjax.core.errors import UserError


def check_trust(path, meta: dict, trust: bool | None, data: dict | None = None) -> None:
    """Raise UserError if a checkpoint would run foreign code that nobody has allowed.

    trust  None: that of a path on this machine is trusted, that of gs://... is not
    data   the caller's own changes to config.data
    """
    code = foreign_code(meta, data or {})
    remote = "://" in str(path)
    if not code or trust or trust is None and not remote:
        return
    place = "from another place" if remote else "with trust=False"
    raise UserError(f"{path}: restoring it {place} would execute {' and '.join(code)} with your "
                    "rights; if you trust who made it, type "
                    f"karpjax.restore({str(path)!r}, trust=True), or --trust for a command")


def foreign_code(meta: dict, data: dict) -> list[str]:
    """Return what restoring a checkpoint would execute beside karpjax's own code, in words."""
    name, text = meta["task"]["name"], meta["task"]["text"]
    config = meta["config"]
    stored = {key: str(value) for key, value in (config.get("data") or {}).items()
              if key not in data}
    code = []
    if text:
        code.append(f"its task file ({len(text.splitlines())} lines)")
    elif "." in name and not name.startswith("karpjax."):
        code.append(f"the module {name}")
    environment = str((config.get("env") or {}).get("name", ""))
    project, _, foreign = environment.partition(":")
    if project == "gymnasium" and ":" in foreign:  # gymnasium.make imports what stands before it
        code.append(f"the module {foreign.partition(':')[0]} of config.env")
    if ":" in stored.get("name", ""):  # TFDS fetches the code of a community's set
        code.append(f"the data set {stored['name']}")
    if "://" in stored.get("data_dir", ""):  # a set's description names classes to import
        code.append(f"what the data sets in {stored['data_dir']} import")
    return code
