// Package subject acts as a user of the guest. The agent is root, its users are
// strangers to it, and everything that touches what a user owns goes through
// here.
//
// # Files
//
// [Do] runs a function on a thread of its own that has the user's file-system
// ids (setfsuid(2), setfsgid(2)) and groups (setgroups(2)) and no capability at
// all (capset(2)). Its real, effective and saved ids stay the agent's. That is
// the whole point: of all credentials, only the file-system ids and the groups
// decide about files, and only the other ids decide who may touch the thread.
//
//   - kill(2) compares the sender with the real and the saved id of the target,
//     prlimit(2) and ptrace(2) with its real, effective and saved id,
//     sched_setaffinity(2), sched_setscheduler(2), setpriority(2) and ioprio_set(2)
//     with its real or effective one. All of those are the agent's, so no user may
//     signal, limit, trace or starve the thread, nor with it the process, whose
//     limits and signals all its threads share.
//   - A file system other than FUSE looks at the file-system ids and at
//     capabilities. The capabilities that a thread has for files go when its
//     file-system id changes; the others, such as CAP_SYS_ADMIN, CAP_SYS_RESOURCE
//     and CAP_LINUX_IMMUTABLE, go by capset, from the permitted set too, so that
//     nothing on that thread can bring them back.
//   - A change of ids makes a process undumpable, so that its files in /proc are
//     root's, whatever the ids of the thread.
//
// A process for each user would be as safe, and would cost a start and a copy of
// every byte; its death would still end the calls of other callers who act as
// that user. A thread whose ids all change, as a program that gives its rights up
// for good has it, is the user's to kill and to stop, and a stop stops all threads.
//
// The thread is never used for anything else: it ends with the function.
//
// What follows from ids that are split:
//
//   - A FUSE file system that its user has mounted without allow_other answers
//     EACCES. The kernel lets in only processes that this user could stop anyway,
//     since its server can make them wait without a bound.
//   - A peer of a Unix socket would see the agent's ids (SO_PEERCRED), as would
//     whoever is asked over D-Bus. So sockets are not connected by Do.
//   - inotify instances and watches, pipes and locks are charged to the agent's
//     user, not to the subject's. Who makes those keeps an account.
//   - /proc/self is the agent's, whoever the subject is, and its links to open files
//     lead past all directories. Who opens paths for a subject leaves them out.
//
// # Processes
//
// A process cannot be kept from having its user's ids. So nothing in the agent
// waits for one that has them: package process starts a launcher as root, which
// changes its ids last, and reads the launcher's report with a deadline.
//
// # Ground
//
// [Ground] finds out, without asking anything that a user owns, whether a path
// leads through directories of root's only. Elsewhere a lookup, an open or an
// execve can wait for a user: for the server of a FUSE mount, for the other end of
// a FIFO, for the holder of a lease.
package subject
