package transport

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/mdlayher/socket"
	"golang.org/x/sys/unix"
)

// The tests of this file make AF_VSOCK sockets and connect none of them, so
// that they run wherever the kernel has vsock.

func init() {
	morePairs = append(morePairs, pairer{"vsock code on a socketpair", socketPair})
}

// socketPair returns connections of the type that vsock has, over Unix
// sockets.
func socketPair(t testing.TB) (client, server *Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]*Conn
	for i, fd := range fds {
		s, err := socket.New(fd, NetworkVsock)
		if err != nil {
			t.Fatal(err)
		}
		conns[i] = newVsockConn(s, VsockAddr(2, 1000), VsockAddr(3, 1000))
		conns[i].SetDeadline(time.Now().Add(longWait))
		t.Cleanup(func() { conns[i].Close() })
	}
	return conns[0], conns[1]
}

// unconnected returns a new AF_VSOCK socket.
func unconnected(t *testing.T, netNS *os.File) *socket.Conn {
	t.Helper()
	if err := Available(); err != nil {
		t.Skip(err)
	}
	s, err := openVsock(netNS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// asNobody runs f on a thread that has the user and group ID 65534 and no
// privilege. f must not start goroutines that need them, nor fail the test.
func asNobody(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to give it up")
	}
	done := make(chan syscall.Errno)
	go func() {
		var errno syscall.Errno
		defer func() { done <- errno }()
		// The thread is never unlocked, so it ends with this goroutine, and no
		// other goroutine runs on it. The raw calls change this thread only.
		runtime.LockOSThread()
		if _, _, errno = syscall.RawSyscall(unix.SYS_SETRESGID, 65534, 65534, 65534); errno != 0 {
			return
		}
		if _, _, errno = syscall.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); errno != 0 {
			return
		}
		f()
	}()
	if errno := <-done; errno != 0 {
		t.Fatalf("cannot give up root: %v", errno)
	}
}

func TestAvailable(t *testing.T) {
	fd, errno := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	err := Available()
	if errno == nil {
		unix.Close(fd)
		if err != nil {
			t.Errorf("Available: %v", err)
		}
		return
	}
	want := KindNoVsock
	if errno == unix.EPERM || errno == unix.EACCES {
		want = KindPermission
	}
	wantKind(t, err, want)
	if !errors.Is(err, errno) {
		t.Errorf("%v does not wrap %v", err, errno)
	}
}

func TestLocalCID(t *testing.T) {
	cid, err := LocalCID()
	switch {
	case err == nil:
		if cid == 0 || cid == CIDAny {
			t.Errorf("LocalCID = %d", cid)
		}
	case Available() != nil:
		if !errors.Is(err, ErrNoVsock) && !errors.Is(err, ErrPermission) {
			t.Errorf("LocalCID: %v without vsock", err)
		}
	default:
		if e, ok := errors.AsType[*Error](err); !ok || e.Op != "local-cid" || e.Kind == KindNoVsock {
			t.Errorf("LocalCID: %v with vsock", err)
		}
	}
	fi, err := os.Stat("/dev/vsock")
	if err != nil || fi.Mode().Perm()&0o004 != 0 {
		return
	}
	asNobody(t, func() { _, err = LocalCID() })
	wantKind(t, err, KindPermission)
}

// TestVsockSocketOptions sets options and reads them back from the kernel.
func TestVsockSocketOptions(t *testing.T) {
	const def = 256 << 10
	tests := []struct {
		name      string
		set, want BufferSizes
	}{
		{"default", BufferSizes{}, BufferSizes{def, 128, def}},
		{"smaller", BufferSizes{Size: 4096}, BufferSizes{4096, 128, def}},
		{"larger raises the maximum", BufferSizes{Size: 8 << 20}, BufferSizes{8 << 20, 128, 8 << 20}},
		{"larger than 32 bits", BufferSizes{Size: 1 << 33}, BufferSizes{1 << 33, 128, 1 << 33}},
		{"clamped to the maximum", BufferSizes{Size: 8 << 20, Max: 1 << 20}, BufferSizes{1 << 20, 128, 1 << 20}},
		{"clamped to the minimum", BufferSizes{Size: 1000, Min: 5000}, BufferSizes{5000, 5000, def}},
		{"lower maximum", BufferSizes{Max: 10000}, BufferSizes{10000, 128, 10000}},
		{"all", BufferSizes{50000, 40000, 60000}, BufferSizes{50000, 40000, 60000}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := unconnected(t, nil)
			if err := setBufferSizes(s, tt.set); err != nil {
				t.Fatal(err)
			}
			if got, err := bufferSizes(s); err != nil || got != tt.want {
				t.Errorf("got %+v, %v; want %+v", got, err, tt.want)
			}
		})
	}
	t.Run("connect timeout", func(t *testing.T) {
		s := unconnected(t, nil)
		if d, err := connectTimeout(s); err != nil || d != 2*time.Second {
			t.Errorf("the kernel's own is %v, %v; want 2s", d, err)
		}
		for set, want := range map[time.Duration]time.Duration{
			-time.Hour:             timeoutMargin,
			0:                      timeoutMargin,
			10 * time.Millisecond:  timeoutMargin + 10*time.Millisecond,
			time.Minute:            timeoutMargin + time.Minute,
			1000000 * time.Hour:    maxConnectTimeout,
			1500 * time.Nanosecond: timeoutMargin,
		} {
			if err := setConnectTimeout(s, set); err != nil {
				t.Fatal(err)
			}
			// The kernel keeps it in ticks.
			if got, err := connectTimeout(s); err != nil || got < want-20*time.Millisecond || got > want+20*time.Millisecond {
				t.Errorf("set %v: got %v, %v; want %v", set, got, err, want)
			}
		}
	})
}

// cookie returns what identifies the network namespace of a socket.
func cookie(t *testing.T, c syscall.Conn) uint64 {
	t.Helper()
	var v uint64
	err := control(c, "getsockopt", func(fd int) (err error) {
		v, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		return err
	})
	if err != nil {
		t.Skipf("no namespace cookies here: %v", err)
	}
	return v
}

// newNetNS returns the file of a new network namespace.
func newNetNS(t *testing.T) *os.File {
	t.Helper()
	var f *os.File
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for ever: the thread ends with the goroutine
		if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
			f, err = os.Open("/proc/thread-self/ns/net")
		}
	}()
	<-done
	if err != nil {
		t.Skipf("cannot make a network namespace: %v", err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestVsockNetNS(t *testing.T) {
	ns := newNetNS(t)
	here, there, again := unconnected(t, nil), unconnected(t, ns), unconnected(t, nil)
	if cookie(t, here) == cookie(t, there) {
		t.Error("the socket is not in the namespace")
	}
	if cookie(t, here) != cookie(t, again) {
		t.Error("the process did not stay in its own namespace")
	}
	file, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if s, err := openVsock(file); err == nil {
		s.Close()
		t.Error("a file that is no namespace was accepted")
	}
	if os.Getenv("VSOCKRPC_LAB") == "" {
		return
	}
	// CIDs are common to all namespaces of the lab's kernels.
	l := mustListen(t, VsockAddr(CIDAny, PortAny), &ListenConfig{NetNS: ns})
	client, server := connect(t, l, &DialConfig{NetNS: ns})
	for _, s := range []syscall.Conn{l, client, server} {
		if cookie(t, s) != cookie(t, there) {
			t.Errorf("a %T is not in the namespace", s)
		}
	}
}

// TestVsockErrorsAreNotEOF shows what becomes of the errors of a socket.
func TestVsockErrorsAreNotEOF(t *testing.T) {
	s := unconnected(t, nil)
	c := &vsockConn{Conn: s, local: VsockAddr(1, 2), remote: VsockAddr(3, 4)}
	n, err := c.Read(make([]byte, 1))
	if n != 0 || !errors.Is(err, unix.ENOTCONN) || errors.Is(err, io.EOF) {
		t.Errorf("Read of an unconnected socket = %d, %v", n, err)
	}
	oe, ok := errors.AsType[*net.OpError](err)
	if !ok || oe.Op != "read" || oe.Net != "vsock" || oe.Source != net.Addr(c.local) || oe.Addr != net.Addr(c.remote) {
		t.Errorf("Read: %#v", err)
	}
	if want := "read vsock vsock:1:2->vsock:3:4: read: transport endpoint is not connected"; err.Error() != want {
		t.Errorf("Read says %q, want %q", err, want)
	}
	if _, err := c.Write([]byte("x")); !errors.Is(err, unix.ENOTCONN) && !errors.Is(err, unix.EPIPE) {
		t.Errorf("Write: %v", err)
	}
	if _, err := c.writeBuffers(&net.Buffers{[]byte("x")}); !errors.Is(err, unix.ENOTCONN) && !errors.Is(err, unix.EPIPE) {
		t.Errorf("writeBuffers: %v", err)
	}
	if err := c.CloseWrite(); !errors.Is(err, unix.ENOTCONN) {
		t.Errorf("CloseWrite: %v", err)
	}
	for _, reset := range []error{unix.ECONNRESET, unix.ENOTCONN, unix.ETIMEDOUT} {
		if err := c.opError("read", &os.PathError{Op: "read", Path: "vsock", Err: reset}); !errors.Is(err, reset) || errors.Is(err, io.EOF) {
			t.Errorf("%v became %v", reset, err)
		}
	}
	c.Close()
	for _, f := range []func() error{
		func() error { _, err := c.Read(make([]byte, 1)); return err },
		func() error { _, err := c.Write([]byte("x")); return err },
		func() error { _, err := c.writeBuffers(&net.Buffers{[]byte("x")}); return err },
		c.CloseRead, c.CloseWrite,
		func() error { return c.SetReadDeadline(time.Time{}) },
	} {
		wantClosed(t, f())
	}
	if err := c.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

// TestSyscallConn uses poll on the descriptor of a connection.
func TestSyscallConn(t *testing.T) {
	readable := func(t *testing.T, c *Conn, timeout time.Duration) bool {
		rc, err := c.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		fds := []unix.PollFd{{Events: unix.POLLIN}}
		if err := rc.Control(func(fd uintptr) {
			fds[0].Fd = int32(fd)
			for {
				if _, err = unix.Poll(fds, int(timeout.Milliseconds())); err != unix.EINTR {
					return
				}
			}
		}); err != nil {
			t.Fatal(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		return fds[0].Revents&unix.POLLIN != 0
	}
	forEachCarrier(t, func(t *testing.T, c carrier) {
		client, server := c.pair(t)
		if readable(t, client, 0) {
			t.Error("readable before anything was sent")
		}
		if _, err := server.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if !readable(t, client, longWait) {
			t.Error("not readable")
		}
	})
}
