package transport

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/mdlayher/socket"
	"golang.org/x/sys/unix"
)

func fileListener(f *os.File, cfg *ListenConfig) (*Listener, error) {
	l, err := inherit(f, cfg)
	if err != nil {
		return nil, &Error{Op: "listen", Kind: kindOf("listen", Addr{}, err), Err: fmt.Errorf("inherited descriptor %s: %w", f.Name(), err)}
	}
	return l, nil
}

func inherit(f *os.File, cfg *ListenConfig) (*Listener, error) {
	// A socket.Conn is only a means here to ask what f is. It is the listener
	// itself for vsock; the net package makes its own copy for Unix sockets.
	s, err := socket.FileConn(f, NetworkVsock)
	if err != nil {
		return nil, err
	}
	acc, bound, err := inheritSocket(f, s, cfg)
	if err != nil {
		s.Close()
		return nil, err
	}
	return newListener(acc, bound, cfg), nil
}

func inheritSocket(f *os.File, s *socket.Conn, cfg *ListenConfig) (acceptor, Addr, error) {
	domain, err := s.GetsockoptInt(unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return nil, Addr{}, err
	}
	if domain != unix.AF_VSOCK && domain != unix.AF_UNIX {
		return nil, Addr{}, fmt.Errorf("address family %d: only vsock and Unix sockets are taken", domain)
	}
	typ, err := s.GetsockoptInt(unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return nil, Addr{}, err
	}
	listening, err := s.GetsockoptInt(unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil {
		return nil, Addr{}, err
	}
	if typ != unix.SOCK_STREAM || listening == 0 {
		return nil, Addr{}, errors.New("not a listening stream socket")
	}
	if domain == unix.AF_VSOCK {
		if err := setBufferSizes(s, cfg.BufferSizes); err != nil {
			return nil, Addr{}, err
		}
		bound, err := boundAddr(s)
		return vsockAcceptor{s}, bound, err
	}
	l, err := net.FileListener(f)
	if err != nil {
		return nil, Addr{}, err
	}
	s.Close()
	bound := addrOfUnix(l.Addr())
	if bound.Net == "" {
		bound = Addr{Net: NetworkUnix}
	}
	return &unixAcceptor{UnixListener: l.(*net.UnixListener), addr: bound, path: bound.Path}, bound, nil
}

// firstInherited is the first descriptor that a service manager passes
// (SD_LISTEN_FDS_START).
const firstInherited = 3

// maxInherited bounds LISTEN_FDS against nonsense.
const maxInherited = 1024

func activationListeners(cfg *ListenConfig) ([]*Listener, error) {
	files, names, err := activationFiles()
	if err != nil {
		return nil, &Error{Op: "activation", Kind: KindOther, Err: err}
	}
	defer closeAll(files)
	var ls []*Listener
	for i, f := range files {
		l, err := inherit(f, cfg)
		if err != nil {
			closeAll(ls)
			return nil, &Error{
				Op:   "activation",
				Kind: kindOf("activation", Addr{}, err),
				Err:  fmt.Errorf("descriptor %d (%q): %w", firstInherited+i, names[i], err),
			}
		}
		l.name = names[i]
		ls = append(ls, l)
	}
	return ls, nil
}

func closeAll[C io.Closer](cs []C) {
	for _, c := range cs {
		c.Close()
	}
}

// activationFiles takes the descriptors that LISTEN_FDS announces, with their
// names, and removes the announcement.
func activationFiles() (files []*os.File, names []string, err error) {
	pid, fds, fdNames := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_FDNAMES")
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"} {
		os.Unsetenv(name)
	}
	if pid != strconv.Itoa(os.Getpid()) || fds == "" {
		return nil, nil, nil // nothing, or meant for another process
	}
	n, err := strconv.ParseUint(fds, 10, 32)
	if err != nil || n > maxInherited {
		return nil, nil, fmt.Errorf("LISTEN_FDS=%q is not a number of descriptors", fds)
	}
	names = strings.Split(fdNames, ":")
	for i := range int(n) {
		if i >= len(names) {
			names = append(names, "")
		}
		fd := firstInherited + i
		// Leave alone what is no socket: if the announcement is wrong, the
		// descriptor may be one of the Go runtime's own.
		if _, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil {
			closeAll(files)
			return nil, nil, fmt.Errorf("descriptor %d (%q): %w", fd, names[i], os.NewSyscallError("getsockopt", err))
		}
		unix.CloseOnExec(fd)
		files = append(files, os.NewFile(uintptr(fd), names[i]))
	}
	return files, names, nil
}
