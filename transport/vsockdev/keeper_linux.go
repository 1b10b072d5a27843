package vsockdev

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// A Keeper holds what a VM's front end has given to a device in another
// process: descriptors of its memory, rings and notifications. No front end
// connects again when its device is gone, so a device that crashes, or is
// upgraded, ends the vsock of its VM for good, unless a keeper gives all that to
// the next device process. The VM sees its connections reset, and no more.
//
// A keeper is small and parses nothing of a guest's. Its methods may be called
// concurrently.
type Keeper struct {
	mu    sync.Mutex
	state []byte // JSON of kept, or nil if there is no front end
	fds   []int  // the descriptors that belong to it
	table int    // of the connections, see portTable
}

// maxKept bounds the JSON of a state, and maxKeptFDs what the kernel passes at
// once.
const (
	maxKept    = 64 << 10
	maxKeptFDs = 253
)

// NewKeeper returns a keeper for the devices of one VM.
func NewKeeper() (*Keeper, error) {
	table, err := unix.MemfdCreate("vsock connections", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd: %w", err)
	}
	return &Keeper{table: table}, nil
}

// Connect returns a file for the next device process, which goes into its
// [Config].Keeper, and a function that serves it until that process has ended or
// closed it. The caller closes the file once the process has it.
func (k *Keeper) Connect() (file *os.File, serve func() error, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	file = os.NewFile(uintptr(pair[0]), "keeper")
	own := os.NewFile(uintptr(pair[1]), "device")
	defer own.Close()
	conn, err := net.FileConn(own)
	if err != nil {
		file.Close()
		return nil, nil, err
	}
	return file, func() error { return k.serve(conn.(*net.UnixConn)) }, nil
}

// serve hands the state to a device process, and takes its own.
func (k *Keeper) serve(c *net.UnixConn) error {
	defer c.Close()
	k.mu.Lock()
	state := k.state
	if state == nil {
		state = []byte("null")
	}
	err := sendState(c, state, append([]int{k.table}, k.fds...))
	k.mu.Unlock()
	if err != nil {
		return err
	}
	for {
		state, fds, err := receiveState(c)
		if err != nil {
			if isEnd(err) {
				return nil
			}
			return err
		}
		k.mu.Lock()
		closeAll(k.fds)
		k.state, k.fds = state, fds
		k.mu.Unlock()
	}
}

// Close gives up everything: the VM has no vsock any more.
func (k *Keeper) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	closeAll(k.fds)
	if k.table >= 0 {
		unix.Close(k.table)
	}
	k.state, k.fds, k.table = nil, nil, -1
	return nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

func sendState(c *net.UnixConn, state []byte, fds []int) error {
	_, _, err := c.WriteMsgUnix(state, unix.UnixRights(fds...), nil)
	return err
}

func receiveState(c *net.UnixConn) (state []byte, fds []int, err error) {
	state = make([]byte, maxKept)
	oob := make([]byte, unix.CmsgSpace(4*maxKeptFDs))
	n, oobn, flags, _, err := c.ReadMsgUnix(state, oob)
	fds, fdErr := parseFDs(oob[:oobn])
	if err == nil {
		err = fdErr
	}
	if err == nil && n == 0 {
		err = net.ErrClosed // the end of a connection of packets
	}
	if err == nil && flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = errors.New("vsockdev: a state that is too large")
	}
	if err != nil {
		closeAll(fds)
		return nil, nil, err
	}
	return state[:n], fds, nil
}

// A kept is a setup, without its descriptors. Those go with it in the order of
// the fields: the front end's connection, Backend, Regions, and of each ring
// kick and call.
type kept struct {
	Features, Status uint64
	Backend          bool
	Regions          []keptRegion
	Vrings           [numRings]keptVring
}

type keptRegion struct{ Guest, Size, User, Offset uint64 }

type keptVring struct {
	Num                     uint32
	Desc, Used, Avail       uint64
	Base, Last              uint16
	Addressed, Enabled, Ran bool
	Kick, Call, Running     bool
}

// describe returns a setup as it can be kept.
func (s *setup) describe(front int) (kept, []int) {
	k := kept{Features: s.features, Status: s.status, Backend: s.backend >= 0}
	fds := []int{front}
	if k.Backend {
		fds = append(fds, s.backend)
	}
	for i := range s.mem.regions {
		r := &s.mem.regions[i]
		k.Regions = append(k.Regions, keptRegion{r.guest, r.size, r.user, r.offset})
		fds = append(fds, r.fd)
	}
	for i := range s.vrings {
		v := &s.vrings[i]
		k.Vrings[i] = keptVring{Num: v.num, Desc: v.desc, Used: v.used, Avail: v.avail, Base: v.base, Last: v.last,
			Addressed: v.addressed, Enabled: v.enabled, Ran: v.ran, Kick: v.kick >= 0, Call: v.call >= 0, Running: v.ring != nil}
		for _, fd := range []int{v.kick, v.call} {
			if fd >= 0 {
				fds = append(fds, fd)
			}
		}
	}
	return k, fds
}

// restore makes s what was kept. It takes fds, whose first is not the setup's.
func (s *setup) restore(k *kept, fds []int) (err error) {
	next := func() int {
		if len(fds) == 0 {
			err = errors.New("vsockdev: a kept state lacks descriptors")
			return -1
		}
		fd := fds[0]
		fds = fds[1:]
		return fd
	}
	defer func() { closeAll(fds) }()
	s.features, s.status = k.Features, k.Status
	if k.Backend {
		s.backend = next()
	}
	for _, r := range k.Regions {
		fd := next()
		if fd < 0 {
			return err
		}
		m, err := mapRegion(fd, r.Guest, r.Size, r.User, r.Offset)
		unix.Close(fd)
		if err == nil {
			err = s.mem.add(m)
		}
		if err != nil {
			return err
		}
	}
	for i := range k.Vrings {
		kv, v := &k.Vrings[i], &s.vrings[i]
		v.num, v.desc, v.used, v.avail = kv.Num, kv.Desc, kv.Used, kv.Avail
		v.base, v.last, v.ran = kv.Base, kv.Last, kv.Ran
		v.addressed, v.enabled = kv.Addressed, kv.Enabled
		if kv.Kick {
			v.kick = next()
		}
		if kv.Call {
			v.call = next()
		}
		if err != nil {
			return err
		}
		if err := s.resume(v, kv.Running); err != nil {
			return err
		}
	}
	return nil
}

// resume goes on with a ring where the device before stopped, whenever that was:
// chains are given back in order, so those behind the last one were not done.
func (s *setup) resume(v *vring, running bool) error {
	if v.kick >= 0 {
		if err := s.watch(v.kick); err != nil {
			return err
		}
	}
	if !running {
		return nil
	}
	if err := s.start(v); err != nil || v.ring == nil {
		return err
	}
	v.ring.taken, v.ring.seen = v.ring.returned, v.ring.returned
	return nil
}
