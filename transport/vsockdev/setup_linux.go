package vsockdev

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// The rings of the device.
const (
	rxRing    = 0 // to the guest
	txRing    = 1 // from the guest
	eventRing = 2
	numRings  = 3
)

// A vring is a ring as the front end describes it, in whatever order.
type vring struct {
	num               uint32
	desc, used, avail uint64 // addresses of the front end's
	base              uint16
	addressed         bool // desc, used and avail are set
	enabled           bool
	kick, call        int // descriptors, or -1

	ring *ring // while it runs
	last uint16
	ran  bool // it ran before, and stopped at last
}

// setup is what the front end has told about the guest. Its session's loop owns
// it.
type setup struct {
	epoll    int // descriptor that the kicks are watched with
	features uint64
	status   uint64
	mem      memory
	vrings   [numRings]vring
	backend  int // descriptor for requests to the front end, or -1

	// reset is called when the guest's driver has started anew.
	reset func()
}

func newSetup(epoll int, reset func()) *setup {
	s := &setup{epoll: epoll, backend: -1, reset: reset}
	for i := range s.vrings {
		s.vrings[i].kick, s.vrings[i].call = -1, -1
	}
	return s
}

// close gives up everything that the front end gave.
func (s *setup) close() {
	for i := range s.vrings {
		v := &s.vrings[i]
		v.ring = nil
		s.unwatch(v)
		replaceFD(&v.call, -1)
	}
	replaceFD(&s.backend, -1)
	s.mem.unmap()
}

// replaceFD closes what *old is and puts fd in its place.
func replaceFD(old *int, fd int) {
	if *old >= 0 {
		unix.Close(*old)
	}
	*old = fd
}

// handle does what a message asks for. The reply is nil if the request has
// none of its own.
func (s *setup) handle(m *message, cid uint32) (reply []byte, err error) {
	switch m.request {
	case reqGetFeatures:
		return replyU64(features), nil
	case reqSetFeatures:
		return nil, s.setFeatures(m)
	case reqGetProtocolFeatures:
		return replyU64(protocolFeatures), nil
	case reqSetProtocolFeatures:
		v, err := m.u64()
		if err == nil && v&^uint64(protocolFeatures) != 0 {
			err = fmt.Errorf("features of the protocol %#x", v)
		}
		return nil, err
	case reqSetOwner, reqResetOwner:
		return nil, nil
	case reqGetQueueNum:
		return replyU64(numRings), nil
	case reqGetMaxMemSlots:
		return replyU64(maxRegions), nil
	case reqSetMemTable:
		return nil, s.setMemTable(m)
	case reqAddMemRegion:
		return nil, s.addRegion(m)
	case reqRemMemRegion:
		return nil, s.removeRegion(m)
	case reqGetConfig:
		return s.getConfig(m, cid)
	case reqSetConfig:
		return nil, fmt.Errorf("the configuration cannot be written")
	case reqSetStatus:
		s.status, err = m.u64()
		return nil, err
	case reqGetStatus:
		return replyU64(s.status), nil
	case reqSetBackendReqFD:
		fd, err := m.takeFD()
		if err == nil {
			replaceFD(&s.backend, fd)
		}
		return nil, err
	case reqSetVringErr:
		return nil, nil // what goes wrong is in the log
	}
	return s.handleVring(m)
}

// handleVring does what a message about a ring asks for.
func (s *setup) handleVring(m *message) (reply []byte, err error) {
	v, num, err := s.vringOf(m)
	if err != nil {
		return nil, err
	}
	switch m.request {
	case reqSetVringNum:
		v.num = num
	case reqSetVringBase:
		if num > 0xffff {
			return nil, fmt.Errorf("ring base %d", num)
		}
		v.base = uint16(num)
	case reqSetVringAddr:
		ne := binary.NativeEndian
		v.desc, v.used, v.avail = ne.Uint64(m.payload[8:]), ne.Uint64(m.payload[16:]), ne.Uint64(m.payload[24:])
		v.addressed = true
	case reqSetVringKick:
		return nil, s.setKick(v, m)
	case reqSetVringCall:
		return nil, s.setCall(v, m)
	case reqSetVringEnable:
		v.enabled = num != 0
	case reqGetVringBase:
		s.stop(v)
		b := make([]byte, 8)
		copy(b, m.payload[:4])
		binary.NativeEndian.PutUint32(b[4:], uint32(v.base))
		return b, nil
	}
	return nil, s.start(v)
}

// vringOf returns the ring that a message is about, and the number in it.
func (s *setup) vringOf(m *message) (*vring, uint32, error) {
	var index, num uint32
	var err error
	switch m.request {
	case reqSetVringNum, reqSetVringBase, reqGetVringBase, reqSetVringEnable:
		index, num, err = m.state()
	case reqSetVringAddr:
		if len(m.payload) != 40 {
			return nil, 0, m.sizeError()
		}
		index = binary.NativeEndian.Uint32(m.payload)
	case reqSetVringKick, reqSetVringCall:
		var v uint64
		v, err = m.u64()
		index = uint32(v & 0xff)
	default:
		return nil, 0, fmt.Errorf("unknown request %d", m.request)
	}
	if err == nil && index >= numRings {
		err = fmt.Errorf("request %d for ring %d", m.request, index)
	}
	if err != nil {
		return nil, 0, err
	}
	return &s.vrings[index], num, nil
}

func (s *setup) setFeatures(m *message) error {
	v, err := m.u64()
	if err != nil {
		return err
	}
	if v&^uint64(features) != 0 || v&featureVersion1 == 0 {
		return fmt.Errorf("features %#x, of %#x", v, uint64(features))
	}
	s.features = v
	if v&featureProtocol == 0 {
		for i := range s.vrings {
			s.vrings[i].enabled = true
		}
	}
	return nil
}

// setMemTable replaces the guest's memory.
func (s *setup) setMemTable(m *message) error {
	ne := binary.NativeEndian
	if len(m.payload) < 8 {
		return m.sizeError()
	}
	// User-mode Linux sends more than the regions.
	n := int(ne.Uint32(m.payload))
	if n != len(m.fds) || n > maxFDs || len(m.payload) < 8+32*n {
		return fmt.Errorf("%d memory regions with %d descriptors in %d bytes", n, len(m.fds), len(m.payload))
	}
	var mem memory
	for i, fd := range m.fds {
		if err := addRegion(&mem, fd, m.payload[8+32*i:]); err != nil {
			mem.unmap()
			return err
		}
	}
	old := s.mem
	s.mem = mem
	err := s.remap()
	old.unmap()
	return err
}

// addRegion maps a region that b describes.
func addRegion(mem *memory, fd int, b []byte) error {
	ne := binary.NativeEndian
	r, err := mapRegion(fd, ne.Uint64(b), ne.Uint64(b[8:]), ne.Uint64(b[16:]), ne.Uint64(b[24:]))
	if err != nil {
		return err
	}
	if err := mem.add(r); err != nil {
		r.unmap()
		return err
	}
	return nil
}

func (s *setup) addRegion(m *message) error {
	if len(m.payload) != 40 || len(m.fds) != 1 {
		return m.sizeError()
	}
	return addRegion(&s.mem, m.fds[0], m.payload[8:])
}

func (s *setup) removeRegion(m *message) error {
	if len(m.payload) != 40 {
		return m.sizeError()
	}
	ne := binary.NativeEndian
	if err := s.mem.remove(ne.Uint64(m.payload[8:]), ne.Uint64(m.payload[16:]), ne.Uint64(m.payload[24:])); err != nil {
		return err
	}
	return s.remap()
}

// remap finds the running rings in the memory as it is now. One that is no
// longer there stops.
func (s *setup) remap() error {
	var first error
	for i := range s.vrings {
		v := &s.vrings[i]
		if v.ring == nil {
			continue
		}
		v.base = v.ring.taken
		v.ring = nil
		r, err := newRing(&s.mem, v.num, v.desc, v.avail, v.used, v.base, s.features&featureEventIdx != 0, s.features&featureIndirect != 0)
		if err != nil && first == nil {
			first = err
		}
		if err == nil {
			v.ring = r
		}
	}
	return first
}

// getConfig returns the configuration space, which is the guest's CID, in as
// many bytes as are asked for.
func (s *setup) getConfig(m *message, cid uint32) ([]byte, error) {
	ne := binary.NativeEndian
	if len(m.payload) < 12 {
		return nil, m.sizeError()
	}
	offset, size := ne.Uint32(m.payload), ne.Uint32(m.payload[4:])
	if size > 256 || offset > 256 || len(m.payload) < 12+int(size) {
		return nil, fmt.Errorf("configuration: %d bytes at %d", size, offset)
	}
	space := make([]byte, 512)
	binary.LittleEndian.PutUint64(space, uint64(cid))
	return append(m.payload[:12:12], space[offset:offset+size]...), nil
}

// noFD is set in the payload if no descriptor comes with it.
const noFD = 1 << 8

func (s *setup) setKick(v *vring, m *message) error {
	fd, err := m.takeFD()
	if err != nil {
		return fmt.Errorf("%w (rings are not polled)", err)
	}
	s.unwatch(v)
	if err := s.watch(fd); err != nil {
		unix.Close(fd)
		return err
	}
	v.kick = fd
	return s.start(v)
}

// watch has the loop wake at kicks.
func (s *setup) watch(kick int) error {
	// Edge-triggered: it need not be read.
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: tokenKick}
	if err := unix.EpollCtl(s.epoll, unix.EPOLL_CTL_ADD, kick, &ev); err != nil {
		return fmt.Errorf("watch a ring's kicks: %w", err)
	}
	return nil
}

// unwatch closes a ring's kick descriptor. The front end has it too, so that
// closing it alone would not end the watch.
func (s *setup) unwatch(v *vring) {
	if v.kick >= 0 {
		_ = unix.EpollCtl(s.epoll, unix.EPOLL_CTL_DEL, v.kick, nil)
		replaceFD(&v.kick, -1)
	}
}

func (s *setup) setCall(v *vring, m *message) error {
	if binary.NativeEndian.Uint64(m.payload)&noFD != 0 {
		replaceFD(&v.call, -1)
		return nil
	}
	fd, err := m.takeFD()
	if err != nil {
		return err
	}
	// User-mode Linux gives a pipe, which may be full: then a call is pending
	// already.
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return err
	}
	replaceFD(&v.call, fd)
	return nil
}

// start starts a ring that has everything.
func (s *setup) start(v *vring) error {
	if v.ring != nil || !v.enabled || !v.addressed || v.kick < 0 {
		return nil
	}
	// A pause of the guest stops the rings too, and starts them where they were.
	if v.ran && v.base != v.last {
		s.reset()
	}
	r, err := newRing(&s.mem, v.num, v.desc, v.avail, v.used, v.base, s.features&featureEventIdx != 0, s.features&featureIndirect != 0)
	if err != nil {
		return err
	}
	v.ring = r
	return nil
}

// stop stops a ring. v.base is then the index of the next chain.
func (s *setup) stop(v *vring) {
	if v.ring != nil {
		v.base = v.ring.taken
		v.ring = nil
	}
	v.last, v.ran = v.base, true
	s.unwatch(v)
}

// running returns a ring, or nil if it must not be used now.
func (s *setup) running(i int) *ring {
	if v := &s.vrings[i]; v.enabled {
		return v.ring
	}
	return nil
}

// interrupt tells the guest that a ring has something for it.
func (s *setup) interrupt(i int) {
	if fd := s.vrings[i].call; fd >= 0 {
		var one [8]byte
		binary.NativeEndian.PutUint64(one[:], 1)
		_, _ = unix.Write(fd, one[:]) // EAGAIN: one is pending
	}
}
