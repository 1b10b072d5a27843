package transport

import (
	"os"
	"syscall"
)

// Windows has neither modes for socket files nor a way to change a backlog.

func limitMode(syscall.RawConn, os.FileMode) error { return nil }

func setBacklog(syscall.Conn, int) error { return nil }
