//go:build linux

package system

import (
	"bytes"
	"cmp"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Facts are what does not change while the guest runs, but for its host name.
type Facts struct {
	BootID    string // the kernel's, a UUID with dashes
	MachineID string // systemd's, 32 hexadecimal digits
	Hostname  []byte
	// Of uname(2).
	KernelName, KernelRelease, KernelVersion, Architecture string
	OS                                                     OSRelease
}

// Read reads the facts of the machine whose file system root is given, usually
// "/". What comes from the kernel by system call is that of this machine.
func Read(root string) Facts {
	f := Facts{
		BootID:    firstLine(filepath.Join(root, "proc/sys/kernel/random/boot_id")),
		MachineID: machineID(root),
		OS:        readOSRelease(root),
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		f.Hostname = bytes.Clone(cString(u.Nodename[:]))
		f.KernelName = text(cString(u.Sysname[:]))
		f.KernelRelease = text(cString(u.Release[:]))
		f.KernelVersion = text(cString(u.Version[:]))
		f.Architecture = text(cString(u.Machine[:]))
	}
	return f
}

// Known reads facts time and again, and remembers what it cannot read any more: an
// agent that is out of descriptors is on the same machine as before. The zero value has
// read nothing. It may be used concurrently.
type Known struct {
	mu   sync.Mutex
	last Facts
}

// Read reads the facts as the function of this name does, and completes them.
func (k *Known) Read(root string) Facts {
	f := Read(root)
	k.mu.Lock()
	defer k.mu.Unlock()
	f.BootID = cmp.Or(f.BootID, k.last.BootID)
	f.MachineID = cmp.Or(f.MachineID, k.last.MachineID)
	f.OS = cmp.Or(f.OS, k.last.OS)
	k.last = f
	return f
}

// Uptime returns the time since boot, suspended time included.
func Uptime() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// machineID returns the id of machine-id(5), or "" if there is none yet.
func machineID(root string) string {
	id := firstLine(filepath.Join(root, "etc/machine-id"))
	if len(id) != 32 || strings.Trim(id, "0123456789abcdef") != "" {
		return "" // "uninitialized" in the first boot of an image
	}
	return id
}

func firstLine(path string) string {
	line, _, _ := bytes.Cut(readFile(path), []byte("\n"))
	return text(line)
}

func cString(b []byte) []byte {
	s, _, _ := bytes.Cut(b, []byte{0})
	return s
}
