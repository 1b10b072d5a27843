package transport

import (
	"errors"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The options of a vsock socket are at level AF_VSOCK, and the sizes are
// 64-bit values on every architecture (include/uapi/linux/vm_sockets.h).

// control runs f on the descriptor of c.
func control(c syscall.Conn, op string, f func(fd int) error) error {
	rc, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	if err := rc.Control(func(fd uintptr) { ferr = f(int(fd)) }); err != nil {
		return err
	}
	return os.NewSyscallError(op, notVsock(ferr))
}

// notVsock replaces the errors by which other sockets refuse the options.
func notVsock(err error) error {
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOPROTOOPT) {
		return errNotVsock
	}
	return err
}

// setBufferSizes applies b in the order that lets a larger size through: the
// kernel clamps the size to the limits of the moment.
func setBufferSizes(c syscall.Conn, b BufferSizes) error {
	if b == (BufferSizes{}) {
		return nil
	}
	return control(c, "setsockopt", func(fd int) error {
		if b.Max == 0 && b.Size != 0 {
			limit, err := unix.GetsockoptUint64(fd, unix.AF_VSOCK, unix.SO_VM_SOCKETS_BUFFER_MAX_SIZE)
			if err != nil {
				return err
			}
			if b.Size > limit {
				b.Max = b.Size
			}
		}
		for _, o := range []struct {
			opt   int
			value uint64
		}{
			{unix.SO_VM_SOCKETS_BUFFER_MAX_SIZE, b.Max},
			{unix.SO_VM_SOCKETS_BUFFER_MIN_SIZE, b.Min},
			{unix.SO_VM_SOCKETS_BUFFER_SIZE, b.Size},
		} {
			if o.value == 0 {
				continue
			}
			if err := unix.SetsockoptUint64(fd, unix.AF_VSOCK, o.opt, o.value); err != nil {
				return err
			}
		}
		return nil
	})
}

func bufferSizes(c syscall.Conn) (BufferSizes, error) {
	var b BufferSizes
	err := control(c, "getsockopt", func(fd int) error {
		for _, o := range []struct {
			opt   int
			value *uint64
		}{
			{unix.SO_VM_SOCKETS_BUFFER_SIZE, &b.Size},
			{unix.SO_VM_SOCKETS_BUFFER_MIN_SIZE, &b.Min},
			{unix.SO_VM_SOCKETS_BUFFER_MAX_SIZE, &b.Max},
		} {
			v, err := unix.GetsockoptUint64(fd, unix.AF_VSOCK, o.opt)
			if err != nil {
				return err
			}
			*o.value = v
		}
		return nil
	})
	return b, err
}

// The kernel's own connect timeout is 2 s. timeoutMargin is how much later
// than this side's limit it is set, so that it never comes first, and
// maxConnectTimeout keeps it within what every architecture's kernel takes.
const (
	timeoutMargin     = time.Second
	maxConnectTimeout = 24 * time.Hour
)

func setConnectTimeout(c syscall.Conn, d time.Duration) error {
	d = min(max(d, 0)+timeoutMargin, maxConnectTimeout)
	tv := unix.NsecToTimeval(d.Nanoseconds())
	return control(c, "setsockopt", func(fd int) error {
		return unix.SetsockoptTimeval(fd, unix.AF_VSOCK, unix.SO_VM_SOCKETS_CONNECT_TIMEOUT_OLD, &tv)
	})
}

func connectTimeout(c syscall.Conn) (time.Duration, error) {
	var d time.Duration
	err := control(c, "getsockopt", func(fd int) error {
		tv, err := unix.GetsockoptTimeval(fd, unix.AF_VSOCK, unix.SO_VM_SOCKETS_CONNECT_TIMEOUT_OLD)
		if err == nil {
			d = time.Duration(tv.Nano())
		}
		return err
	})
	return d, err
}
