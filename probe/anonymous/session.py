"""A recorded session → the same session of other people: each message, each row and the index, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from daemonset.wire import Frame, TruncatedError, WireError, read_stream
from probe.anonymous.anonymizer import Anonymizer
from probe.errors import UsageError, os_error
from probe.sessions.folder import OF_FOLDER, Meta, SessionFolder, read_meta, stream_path


def anonymize(folder: Path, target: Path, key: bytes) -> Meta:
    """Write the session in `folder` anew into `target`, an empty or new folder, without what speaks of people.

    What its streams lacked, they lack again. Raises ProbeError.
    """
    meta, mask = read_meta(folder), Anonymizer(key)
    if target.resolve() == folder.resolve():
        raise UsageError(f"{target} is the session itself; name a new folder")
    fields = mask.meta(meta)
    fresh = SessionFolder(target, Meta(facts=fields["facts"], title=fields["title"]))
    for place in meta.places:
        write = fresh.frames(mask.searched(place))  # nodes may be called by their address
        path = stream_path(folder, place)
        for frame in _whole_frames(path) if path is not None else ():
            write(mask.frame(frame))
    if not meta.complete:
        fresh.close()
        return meta
    return fresh.finish(**{name: fields[name] for name in fields.keys() - OF_FOLDER})


def _whole_frames(path: Path) -> Iterator[Frame]:
    """The frames up to where a stream is damaged or cut off."""
    try:
        yield from read_stream(path)
    except (TruncatedError, WireError):
        return
    except OSError as error:
        raise os_error(error, f"read {path}") from error
