"""What an exception says, in the words that people know from Linux."""

import errno

# Failures of files have other numbers in WebAssembly; what people search for are these.
_LINUX_NUMBERS = {
    "EPERM": 1, "ENOENT": 2, "EIO": 5, "EBADF": 9, "EAGAIN": 11, "ENOMEM": 12, "EACCES": 13, "EBUSY": 16, "EEXIST": 17,
    "EXDEV": 18, "ENOTDIR": 20, "EISDIR": 21, "EINVAL": 22, "EMFILE": 24, "EFBIG": 27, "ENOSPC": 28, "EROFS": 30,
    "EPIPE": 32, "ENAMETOOLONG": 36, "ENOSYS": 38, "ENOTEMPTY": 39, "ELOOP": 40, "EDQUOT": 122,
}  # fmt: skip


def text_of(error):
    """`str(error)`, whatever the exception's class makes of it."""
    try:
        text = str(error)
    except Exception as failure:
        return f"<{type(error).__name__} whose message raised {type(failure).__name__}>"
    if isinstance(error, OSError):
        here = f"[Errno {error.errno}]"
        number = _LINUX_NUMBERS.get(errno.errorcode.get(error.errno))
        if number is not None and text.startswith(here):
            return f"[Errno {number}]{text[len(here):]}"
    return text
