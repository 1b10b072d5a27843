//go:build !linux

package sock

import (
	"net"
	"time"
)

// Socket is for Linux only; elsewhere connections are used by Read and Write.
type Socket struct{}

// Of returns nil.
func Of(net.Conn) *Socket { return nil }

func (*Socket) fill(*Reader, []byte, time.Duration) (int, error) { panic("unreachable") }

func (*Socket) writev([][]byte, bool, func()) (int, bool, error) { panic("unreachable") }
