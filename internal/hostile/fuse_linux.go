package hostile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A HungFS is a FUSE file system that takes requests and answers none but the first,
// without which there would be no others.
type HungFS struct {
	dir      string
	device   *os.File
	asked    chan struct{} // closed once somebody waits for an answer
	once     sync.Once
	requests atomic.Int64
	served   chan struct{}
}

// MountHung mounts one on dir as fusermount(1) would for a user, which takes root;
// others lets in other users too, as user_allow_other in /etc/fuse.conf allows. The
// caller must Close it.
func MountHung(dir string, uid, gid int, others bool) (*HungFS, error) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/fuse: %w", err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d", fd, uid, gid)
	if others {
		options += ",allow_other"
	}
	if err := unix.Mount("hung", dir, "fuse", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("mount FUSE: %w", err)
	}
	// Not before, since there is nothing to poll before the mount.
	device := os.NewFile(uintptr(fd), "/dev/fuse")
	h := &HungFS{dir: dir, device: device, asked: make(chan struct{}), served: make(chan struct{})}
	go h.serve()
	return h, nil
}

// Of linux/fuse.h.
const (
	fuseInit      = 26
	fuseInHeader  = 40
	fuseOutHeader = 16
	fuseInitOut   = 64
)

func (h *HungFS) serve() {
	defer close(h.served)
	buf := make([]byte, 1<<17)
	for {
		n, err := h.device.Read(buf)
		if errors.Is(err, unix.ENOENT) {
			continue // its asker has gone
		}
		if err != nil || n < fuseInHeader {
			return
		}
		if binary.NativeEndian.Uint32(buf[4:]) != fuseInit {
			h.requests.Add(1)
			h.once.Do(func() { close(h.asked) })
			continue
		}
		answer := make([]byte, fuseOutHeader+fuseInitOut)
		binary.NativeEndian.PutUint32(answer[0:], uint32(len(answer)))
		copy(answer[8:16], buf[8:16])                        // unique
		binary.NativeEndian.PutUint32(answer[16:], 7)        // major
		binary.NativeEndian.PutUint32(answer[20:], 31)       // minor
		binary.NativeEndian.PutUint32(answer[24:], 1<<16)    // max_readahead
		binary.NativeEndian.PutUint16(answer[32:], 12)       // max_background
		binary.NativeEndian.PutUint16(answer[34:], 9)        // congestion_threshold
		binary.NativeEndian.PutUint32(answer[36:], 1<<16)    // max_write
		binary.NativeEndian.PutUint32(answer[40:], 1000_000) // time_gran
		if _, err := h.device.Write(answer); err != nil {
			return
		}
	}
}

// Asked is closed once somebody waits for an answer.
func (h *HungFS) Asked() <-chan struct{} { return h.asked }

// Requests returns how many have come.
func (h *HungFS) Requests() int { return int(h.requests.Load()) }

// End fails all requests, as when its server ends.
func (h *HungFS) End() {
	h.device.Close()
	<-h.served
}

// Close ends it and unmounts.
func (h *HungFS) Close() error {
	h.End()
	return unix.Unmount(h.dir, unix.MNT_DETACH)
}
