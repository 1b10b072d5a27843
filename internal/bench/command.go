package main

import "time"

// A command is what the orchestrator asks of a child, one JSON value on its
// stdin; the child answers each with a reply on its stdout and ends when its
// stdin does.
type command struct {
	Op string
	// Load is the work of "open" and "run", Conns the number of clients that
	// "open" makes (0 means 1), For the time to run it.
	Load  load
	Conns int
	For   time.Duration
	// Profile is the file of "profile"; empty ends the profile.
	Profile string
}

// Operations. Servers know only the first two, and opProfile.
const (
	opUsage   = "usage"   // answer with a usage
	opCollect = "collect" // collect garbage
	opOpen    = "open"    // connect, and warm up for the time For
	opRun     = "run"     // measure for the time For
	opClose   = "close"   // close all connections
	opProfile = "profile" // start or end a CPU profile
)

type reply struct {
	Error  string
	Usage  usage
	Result result
}

// A load is what a client does in a scenario.
type load struct {
	Kind    kind
	Callers int // for unary
	Size    int // bytes of payload
}

type kind string

const (
	unary kind = "unary" // Callers goroutines, each with one call in flight
	down  kind = "down"  // one stream from the server
	up    kind = "up"    // one stream to the server
	mixed kind = "mixed" // a caller of Size bytes beside two callers of mixedSize
	dial  kind = "dial"  // connect, make one call, close, again and again
	idle  kind = "idle"  // connections that have made one call
)

const (
	mixedCallers = 2
	mixedSize    = 1 << 20
)

// A result is what one client has done in one window.
type result struct {
	Elapsed  time.Duration
	Calls    int           // calls or messages of Size bytes
	BigCalls int           // calls of mixedSize
	P50, P99 time.Duration // of the calls, where one caller made them
	Client   usage         // spent in the window
	Server   usage         // spent in the window, filled in by the orchestrator
}

// usage is what a process has spent so far and holds now.
type usage struct {
	CPU     time.Duration // user and system
	Allocs  uint64
	Writes  uint64 // write system calls of any kind
	Memory  int64  // bytes of live heap and of stacks; exact after a collection
	Routine int    // goroutines
}

// since returns the difference to an earlier usage.
func (u usage) since(start usage) usage {
	return usage{
		CPU:     u.CPU - start.CPU,
		Allocs:  u.Allocs - start.Allocs,
		Writes:  u.Writes - start.Writes,
		Memory:  u.Memory - start.Memory,
		Routine: u.Routine - start.Routine,
	}
}
