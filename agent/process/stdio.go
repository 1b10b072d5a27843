//go:build linux

package process

import (
	"fmt"
	"os"
	"syscall"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/vsockrpc/vsockrpc/agent/internal/account"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// stdio is a session's standard streams: the process's ends, which are closed
// once it has started, and the agent's.
type stdio struct {
	fds      [3]int // the process's
	stdin    *os.File
	out      [outputs]*os.File
	terminal *os.File // the same as stdin and out[stdout]
}

// openStdio makes the streams that a spec asks for, for a process of acc.
func openStdio(spec *guestv1.SessionSpec, acc account.Account) (*stdio, error) {
	io := &stdio{fds: [3]int{-1, -1, -1}}
	var err error
	if spec.Terminal != nil {
		err = io.openTerminal(spec.Terminal.Size, acc)
	} else {
		err = io.openPipes(spec, acc)
	}
	if err != nil {
		io.closeChild()
		io.closeOwn()
		return nil, err
	}
	return io, nil
}

func (io *stdio) openPipes(spec *guestv1.SessionSpec, acc account.Account) error {
	var err error
	if spec.Stdin {
		io.stdin, io.fds[0], err = openPipe(true, acc)
	} else {
		io.fds[0], err = openNull(os.DevNull)
	}
	if err == nil {
		io.out[stdout], io.fds[1], err = openPipe(false, acc)
	}
	switch {
	case err != nil:
	case spec.StderrToStdout:
		io.fds[2], err = unix.FcntlInt(uintptr(io.fds[1]), unix.F_DUPFD_CLOEXEC, 0)
	default:
		io.out[stderr], io.fds[2], err = openPipe(false, acc)
	}
	return err
}

// openNull opens the null device for a process without stdin.
func openNull(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		return fd, nil
	}
	if f := resourceFault(err.(unix.Errno)); f != nil {
		return -1, f.On("open", path, err)
	}
	return -1, newFault(codes.FailedPrecondition, reasonNoNull, "the guest has no usable %s, which is stdin of commands without one: %v", path, err).
		On("open", path, err).Hint("in the guest: mount -t devtmpfs dev /dev, or mknod -m 666 /dev/null c 1 3")
}

// openPipe makes a pipe. The agent's end does not block, so that Go's poller
// has it; the process's does.
func openPipe(write bool, acc account.Account) (*os.File, int, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, -1, os.NewSyscallError("pipe2", err)
	}
	own, theirs := p[0], p[1]
	if write {
		own, theirs = theirs, own
	}
	// So that a process of another user may open /dev/stdout again. Where the
	// agent may not do this, it cannot switch users either.
	_ = unix.Fchown(theirs, int(acc.UID), int(acc.GID))
	if err := unix.SetNonblock(own, true); err != nil {
		unix.Close(own)
		unix.Close(theirs)
		return nil, -1, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(own), "pipe"), theirs, nil
}

func (io *stdio) openTerminal(size *guestv1.WindowSize, acc account.Account) error {
	master, slave, err := pty.Open()
	if err != nil {
		return fmt.Errorf("open a terminal: %w", err)
	}
	defer master.Close()
	defer slave.Close()
	// As login(1) does, so that the user may open the terminal by its name.
	_ = unix.Fchown(int(slave.Fd()), int(acc.UID), -1)
	// Package pty leaves the master blocking; a reader of it could not be
	// stopped.
	own, err := unix.FcntlInt(master.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	if err := unix.SetNonblock(own, true); err != nil {
		unix.Close(own)
		return os.NewSyscallError("fcntl", err)
	}
	io.terminal = os.NewFile(uintptr(own), "terminal")
	io.stdin, io.out[stdout] = io.terminal, io.terminal
	for i := range io.fds {
		if io.fds[i], err = unix.FcntlInt(slave.Fd(), unix.F_DUPFD_CLOEXEC, 0); err != nil {
			io.fds[i] = -1
			return os.NewSyscallError("fcntl", err)
		}
	}
	return io.resize(size)
}

// resize sets the terminal's window size; the kernel tells the process.
func (io *stdio) resize(size *guestv1.WindowSize) error {
	if size == nil {
		return nil
	}
	ws := &unix.Winsize{Row: uint16(min(size.Rows, 1<<16-1)), Col: uint16(min(size.Columns, 1<<16-1))}
	return onFD(io.terminal, func(fd int) error { return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, ws) })
}

// typeEOF types the terminal's end-of-file character, if it takes one. In the
// middle of a line the first only ends the line.
func (io *stdio) typeEOF(midLine bool) {
	var eof []byte
	err := onFD(io.terminal, func(fd int) error {
		mode, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err == nil && mode.Lflag&unix.ICANON != 0 && mode.Cc[unix.VEOF] != 0 {
			eof = []byte{mode.Cc[unix.VEOF]}
		}
		return err
	})
	if err != nil || eof == nil {
		return
	}
	if midLine {
		eof = append(eof, eof...)
	}
	// A terminal that has gone needs no end of file.
	_, _ = io.terminal.Write(eof)
}

// idle reports whether the program has read all that was typed. It fails where the
// kernel does not tell, before Linux 4.13.
func (io *stdio) idle() (idle bool, err error) {
	err = onFD(io.terminal, func(fd int) error {
		const flags = unix.O_RDONLY | unix.O_NOCTTY | unix.O_NONBLOCK | unix.O_CLOEXEC
		peer, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, flags)
		if errno != 0 {
			return errno
		}
		defer unix.Close(int(peer))
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(peer), Events: unix.POLLIN}}, 0)
		idle = n == 0
		return err
	})
	return idle, err
}

// closeChild closes the process's ends.
func (io *stdio) closeChild() {
	for i, fd := range io.fds {
		if fd >= 0 {
			unix.Close(fd)
			io.fds[i] = -1
		}
	}
}

// closeOwn closes the agent's ends.
func (io *stdio) closeOwn() {
	for _, f := range []*os.File{io.stdin, io.out[stdout], io.out[stderr]} {
		if f != nil {
			f.Close()
		}
	}
}

// onFD calls f with the file's descriptor.
func onFD(file *os.File, f func(fd int) error) error {
	conn, err := file.SyscallConn()
	if err != nil {
		return err
	}
	ctlErr := conn.Control(func(fd uintptr) { err = f(int(fd)) })
	if ctlErr != nil {
		return ctlErr
	}
	return err
}

// waiting returns how many bytes can be read now.
func waiting(fd int) int {
	n, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
	if err != nil {
		return 0
	}
	return n
}

// read is read(2), again if a signal interrupted it.
func read(fd int, buf []byte) (int, error) {
	for {
		n, err := unix.Read(fd, buf)
		if err != syscall.EINTR {
			return max(n, 0), err
		}
	}
}

// hungUp reports whether nothing can be read any more: the other end is closed
// by all who had it.
func hungUp(fd int) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(p, 0)
	return err == nil && n == 1 && p[0].Revents&unix.POLLHUP != 0 && p[0].Revents&unix.POLLIN == 0
}
