"""Become another program that ends with its parent: ``launcher.py DEATH_SIGNAL PARENT_PID USER ARGV...``.

Linux delivers DEATH_SIGNAL to the program when the thread that started it ends, whatever ended it, SIGKILL included. USER
(``-`` for none) is whom to become: PostgreSQL refuses to run as root. That user keeps the right to read files and to pass
through directories of others, for root's checkout or data may lie where nobody else may go, and opening them to all would be worse.

A file of its own, run with ``python -I -S``, because the steps belong between fork and exec, where a process with threads
must not run Python (``preexec_fn``). It imports nothing but the standard library.
"""

import ctypes
import os
import pwd
import sys

PR_SET_PDEATHSIG = 1
PR_SET_SECUREBITS = 28
SECBIT_NO_SETUID_FIXUP = 4
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2
LINUX_CAPABILITY_VERSION_3 = 0x20080522


def die_with_parent(death_signal: int, parent: int) -> None:
    """Ask for ``death_signal`` when the parent dies. Exits at once when it is dead already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("the parent has gone")


def become(user: str) -> None:
    """Change from root to ``user``, who may still read and traverse everything where the kernel allows us to grant that."""
    entry = pwd.getpwnam(user)
    linux = sys.platform == "linux"
    if linux:
        libc = ctypes.CDLL(None, use_errno=True)
        # Without it a change of user takes all capabilities away at once, and access(2), with which PostgreSQL looks for itself,
        # ignores them. What is not made ambient below goes with ``exec``.
        libc.prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0)
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
    if linux:
        # Containers often drop the narrow right and leave the wide one.
        any(_keep_capability(libc, capability) for capability in (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE))
    os.environ.update(HOME=entry.pw_dir, USER=user, LOGNAME=user)


def _keep_capability(libc: ctypes.CDLL, capability: int) -> bool:
    """Keep one capability over ``exec``, and nothing else. False when root itself does not have it."""
    header = (ctypes.c_uint32 * 2)(LINUX_CAPABILITY_VERSION_3, 0)
    bit = 1 << capability
    # Effective, permitted, inheritable, for capabilities 0 to 31 and then for 32 to 63.
    data = (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)
    return bool(libc.capset(header, data) == 0 and libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0) == 0)


def main(arguments: list[str]) -> None:
    """Do the steps in the order that the kernel wants: a change of user clears the death signal."""
    death_signal, parent, user, *argv = arguments
    try:
        if user != "-":
            become(user)
        die_with_parent(int(death_signal), int(parent))
        os.execvp(argv[0], argv)
    except (OSError, KeyError) as error:
        role = "" if user == "-" else f" as the user {user}, as root must; start tierstream as an ordinary user instead"
        sys.exit(f"{argv[0]} can not be run{role}: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
