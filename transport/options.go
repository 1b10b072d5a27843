package transport

import (
	"errors"
	"fmt"
	"os"
	"time"
)

// BufferSizes are the sizes in bytes of the receive buffer of a vsock socket:
// how much the peer may send before this side has read it. The kernel keeps
// Size between Min and Max, silently. Linux starts with 262144, 128 and
// 262144. Kernels with the fix of CVE-2026-23086 also limit what this side
// sends ahead to its own Size, so for more than the default both sides have to
// set it.
//
// To set them, leave a field 0 to keep the kernel's value; a Max of 0 is raised
// to Size if Size is larger than the kernel's maximum. What was applied is
// read back with the BufferSizes method of Conn and Listener.
type BufferSizes struct {
	Size uint64 // SO_VM_SOCKETS_BUFFER_SIZE
	Min  uint64 // SO_VM_SOCKETS_BUFFER_MIN_SIZE
	Max  uint64 // SO_VM_SOCKETS_BUFFER_MAX_SIZE
}

// BufferSizes returns the buffer sizes that the kernel applies to a vsock
// connection. Other networks have none: errors.ErrUnsupported.
func (c *Conn) BufferSizes() (BufferSizes, error) { return bufferSizes(c) }

// SetBufferSizes changes the buffer sizes of a vsock connection and returns
// those that the kernel applied. Other networks have none:
// errors.ErrUnsupported.
func (c *Conn) SetBufferSizes(b BufferSizes) (BufferSizes, error) {
	if err := setBufferSizes(c, b); err != nil {
		return BufferSizes{}, err
	}
	return bufferSizes(c)
}

// ConnectTimeout returns the connect timeout that the kernel holds for a vsock
// connection. Dial sets it from its own time limit, a little later than that,
// so that it is never the kernel that ends an attempt. Other networks have
// none: errors.ErrUnsupported.
func (c *Conn) ConnectTimeout() (time.Duration, error) { return connectTimeout(c) }

// BufferSizes returns the buffer sizes of a vsock listener, which the
// connections it accepts inherit. Other networks have none:
// errors.ErrUnsupported.
func (l *Listener) BufferSizes() (BufferSizes, error) { return bufferSizes(l) }

// errNotVsock is the answer of vsock options on other sockets.
var errNotVsock = fmt.Errorf("not a vsock socket: %w", errors.ErrUnsupported)

// DefaultTimeout limits an attempt to dial whose context has no deadline and
// whose DialConfig has no Timeout.
const DefaultTimeout = 5 * time.Second

// DialConfig holds the options of Dial. The zero value, or a nil pointer, is
// the default. It may be used by several calls at once and is not changed.
type DialConfig struct {
	// Timeout limits the attempt, together with the context: the earlier of the
	// two ends it. If neither has a limit, it is DefaultTimeout.
	Timeout time.Duration

	// BufferSizes are set before the socket connects. Vsock only; ignored by
	// other networks.
	BufferSizes BufferSizes

	// LocalPort is the vsock port to dial from; 0 lets the kernel choose. A
	// port below 1024 needs CAP_NET_BIND_SERVICE. Vsock only: another network
	// has no port that the peer could see, and refuses the option.
	LocalPort uint32

	// PrivilegedPort dials from any free vsock port below 1024, which needs
	// CAP_NET_BIND_SERVICE and so proves to the peer that this side has it.
	// There are about a thousand of them for all processes of the machine; if
	// none is free the error is ErrAddrInUse. Ignored by other networks, whose
	// peer sees the Unix socket's credentials instead.
	PrivilegedPort bool

	// NetNS is an open network namespace file, such as /proc/PID/ns/net or
	// /run/netns/NAME, in which the socket is made; nil means that of this
	// process. Needs CAP_SYS_ADMIN. Vsock only; ignored by other networks,
	// whose sockets are found by their path.
	NetNS *os.File
}

// ListenConfig holds the options of Listen, FileListener and
// ActivationListeners. The zero value, or a nil pointer, is the default. It is
// not changed, and must not be while the listener lives.
type ListenConfig struct {
	// Accept, if not nil, is called for every connection before Accept of the
	// listener returns it. If it returns an error the connection is closed at
	// once and the listener goes on with the next. It is called by the
	// goroutine that called Accept and should not block.
	Accept func(Peer) error

	// Backlog is the number of connections that the kernel completes before
	// they are accepted; 0 means the system's maximum (4096 on Linux, at most
	// net.core.somaxconn). Not used on Windows and for inherited sockets.
	Backlog int

	// BufferSizes are set before the socket listens; accepted connections
	// inherit them. Vsock only; ignored by other networks.
	BufferSizes BufferSizes

	// NetNS is as in DialConfig.
	NetNS *os.File

	// Mode is the permission of the file of a Unix socket, which has it from
	// the moment it exists. 0 means 0777 less the umask. To connect needs
	// write permission.
	Mode os.FileMode
}
