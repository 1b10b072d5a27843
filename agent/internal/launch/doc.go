// Package launch turns a process into a session's program: the agent's own
// binary, started again as root, sets limits on itself, becomes a user of the
// guest, and then executes what that user runs.
//
// os/exec can set neither resource limits, nor the umask, no_new_privs, the
// niceness or the capability bounding set of a child, and sets these from outside
// too late, since the child may have forked by then. And what it can set, the
// user, is the user's to attack: between its fork and its exec a child has the
// user's ids, the thread of the agent that forked waits for it, and holds the lock
// without which nobody else can fork. A user who stops the child, or whose file
// system does not answer the chdir or the exec, stops them all. A launcher is
// executed as root. What can hang comes after that, and nobody waits for it
// without a deadline.
//
// Signals that the agent was started with, ignored or blocked, are reset.
//
// The ids change last, so that nobody can get at the launcher before all else is
// set. From then on its user can stop and end it, which hurts that start alone,
// and can read nothing of it: a change of ids makes a process undumpable.
//
// This runs as the package is initialised, before most others are, which is a
// third of what the start of the whole program takes. So it imports next to
// nothing.
package launch
