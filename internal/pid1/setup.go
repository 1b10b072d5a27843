//go:build linux

package pid1

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// initPIDNamespace is the inode of the first pid namespace
// (PROC_PID_INIT_INO in include/linux/proc_ns.h).
const initPIDNamespace = 0xEFFFFFFC

// OwnsMachine reports whether this process is the first one of the machine, as
// opposed to an ordinary process or the first one of a container. It mounts
// /proc if that is what it takes to know.
func OwnsMachine() bool {
	if os.Getpid() != 1 {
		return false
	}
	if _, err := os.Stat("/proc/self"); err != nil {
		proc := mounts[0]
		if proc.make("/") != nil {
			// Whoever may not mount /proc is in a container.
			return false
		}
	}
	var st unix.Stat_t
	return unix.Stat("/proc/self/ns/pid", &st) == nil && st.Ino == initPIDNamespace
}

// UseConsole makes /dev/console the standard output and error if the kernel
// could not, as it found no such file when it started the process.
func UseConsole() error {
	var st unix.Stat_t
	null := unix.Mkdev(1, 3)
	if err := unix.Fstat(2, &st); err == nil && !(st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == null) {
		return nil
	}
	console, err := os.OpenFile("/dev/console", os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer console.Close()
	return errors.Join(unix.Dup3(int(console.Fd()), 1, 0), unix.Dup3(int(console.Fd()), 2, 0))
}

// CatchCtrlAltDel lets the kernel send SIGINT to the first process instead of
// rebooting when the keys are pressed, or when a VMM says that they are.
func CatchCtrlAltDel() error {
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF); err != nil {
		return fmt.Errorf("catch ctrl-alt-del: %w", err)
	}
	return nil
}

// SetHostname sets the name in /etc/hostname below root, if there is one.
func SetHostname(root string) error {
	b, err := os.ReadFile(filepath.Join(root, "etc/hostname"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	name := hostname(b)
	if len(name) == 0 {
		return nil
	}
	if err := unix.Sethostname(name); err != nil {
		return fmt.Errorf("set host name %q: %w", name, err)
	}
	return nil
}

// hostname returns the name in a file as hostname(5) describes it: the first
// line that is neither empty nor a comment.
func hostname(file []byte) []byte {
	for line := range bytes.Lines(file) {
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' {
			return line
		}
	}
	return nil
}

// LoopbackUp brings up the network interface "lo"; the kernel then gives it
// its addresses.
func LoopbackUp() error {
	if err := loopbackUp(); err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	return nil
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		return nil // a kernel without networks
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, req); err != nil {
		return err
	}
	req.SetUint16(req.Uint16() | unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}
