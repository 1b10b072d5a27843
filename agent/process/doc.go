// Package process is the guest's side of guest.v1.ProcessService: it runs
// processes in sessions that outlive the connection which started them.
//
// A session is a process with its standard streams, known by an id that the
// client makes. Every byte of its output has an absolute offset. What no owner
// has acknowledged stays in a bounded ring, so a client that was cut off goes
// on where it was; what was dropped by the chosen policy is reported to the
// byte.
//
// # Structure
//
// ring.go and state.go are a state machine without goroutines, clocks or I/O:
// all that decides which byte goes to whom. Around it, session.go owns the
// process and its pumps, stream.go carries one attached client, spawn.go
// starts programs, and server.go is the table of sessions.
//
// # Process groups
//
// Each process is started with setsid(2), on a terminal or not. Its group and
// its POSIX session then have its pid, it cannot reach the terminal of the
// agent (which matters for an agent inside a command line tool), and its
// descendants can be told from other processes even when a shell with job
// control moved them to groups of their own. What ends with a session, family.go
// finds wherever it has gone; what a process leaves running when it exits by itself
// goes on.
//
// # Starts
//
// A child of a fork holds up every other start until its exec, so that nothing a
// user of the guest owns may come between the two. The Server forks and executes a
// program itself only as its own user, and where no user can reach into the paths
// (package subject). All others are executed by a launcher (package launch), which
// has StartTimeout for it.
//
// # Environment
//
// The base environment is PATH, HOME, USER, LOGNAME and SHELL of the target
// user, VSOCKRPC_SESSION with the session's id, TERM with a terminal, and nothing of
// the agent's own. The working
// directory is the user's home, or / where that is missing or may not be entered. The umask is 022.
//
// # Restart
//
// Sessions end with the agent. A client that names the agent's run it was
// attached to ([Config.AgentID]) is told "agent-restarted" by the next one.
package process
