//go:build race

package sock

import (
	"runtime"
	"unsafe"
)

// ioSync stands for all sockets: what happened before a write happened before the
// read of what was written. Package syscall tells the race detector so for its own
// calls, the raw ones here have to say it themselves, lest a program that is server
// and client at once is told of races between a call and what follows its answer.
var ioSync int64

func raceRead()  { runtime.RaceAcquire(unsafe.Pointer(&ioSync)) }
func raceWrite() { runtime.RaceReleaseMerge(unsafe.Pointer(&ioSync)) }
