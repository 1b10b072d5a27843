//go:build linux

package vsockdev

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Where the guest's memory is: neither the guest's addresses nor the front
// end's begin where the file does.
const (
	guestBase  = 0x10000
	userBase   = 0x7f00_0000_0000
	fileOffset = 4096
	memorySize = 4 << 20
)

// A driver is a front end with the guest's driver, as far as it needs no
// thought: rings in a memfd, packets in and out. send may be called
// concurrently.
type driver struct {
	t        *testing.T
	features uint64
	fd       int    // of the memory's file
	mem      []byte // the guest's memory; mapped apart from the device's
	ctl      *net.UnixConn
	rings    [numRings]*driverRing

	mu      sync.Mutex  // held by who works on the rings
	packets chan packet // from the device; closed when the driver ends
	quit    atomic.Bool
}

// A packet is one from the device.
type packet struct {
	header
	data []byte
}

// A driverRing is the driver's end of a ring.
type driverRing struct {
	num               int
	desc, avail, used int // offsets in the memory
	buffers           int // of rxBufferSize each
	next              uint16
	lastUsed          uint16
	kick, call        int
}

const (
	ringSize     = 64
	rxBufferSize = 4096
)

// newDriver connects to the socket at path, sets the device up and starts it.
func newDriver(t *testing.T, path string, features uint64) *driver {
	t.Helper()
	d := connectDriver(t, path, features)
	d.setUp()
	for range d.rings[rxRing].num {
		d.offer()
	}
	d.notify(rxRing)
	go d.receive()
	return d
}

// connectDriver connects to the socket at path, and makes the memory.
func connectDriver(t *testing.T, path string, features uint64) *driver {
	t.Helper()
	fd, err := unix.MemfdCreate("guest", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Ftruncate(fd, fileOffset+memorySize); err != nil {
		t.Fatal(err)
	}
	mem, err := unix.Mmap(fd, 0, fileOffset+memorySize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	d := &driver{t: t, features: features | featureVersion1 | featureProtocol, fd: fd, mem: mem[fileOffset:], ctl: c.(*net.UnixConn), packets: make(chan packet, 1<<14)}
	offset := 4096
	for i := range d.rings {
		r := &driverRing{num: ringSize, desc: offset, avail: offset + 16*ringSize, used: offset + 2048, buffers: 1<<20*(i+1) - 1<<19}
		offset += 8192
		if r.kick, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
			t.Fatal(err)
		}
		if r.call, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		d.rings[i] = r
	}
	t.Cleanup(func() { d.end() })
	return d
}

// end ends the front end, as a VM that is killed does.
func (d *driver) end() {
	d.ctl.Close()
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.quit.Swap(true) {
		_, _ = unix.Write(d.rings[rxRing].call, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
}

// request sends a request with its payload and descriptors, and returns the
// status or the payload of the answer.
func (d *driver) request(request uint32, payload []byte, fds ...int) ([]byte, error) {
	b := make([]byte, messageHeader, messageHeader+len(payload))
	ne := binary.NativeEndian
	ne.PutUint32(b, request)
	ne.PutUint32(b[4:], version|flagNeedReply)
	ne.PutUint32(b[8:], uint32(len(payload)))
	if _, _, err := d.ctl.WriteMsgUnix(append(b, payload...), unix.UnixRights(fds...), nil); err != nil {
		return nil, err
	}
	if err := d.ctl.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return nil, err
	}
	head := make([]byte, messageHeader)
	if _, err := io.ReadFull(d.ctl, head); err != nil {
		return nil, err
	}
	if got := ne.Uint32(head); got != request || ne.Uint32(head[4:]) != version|flagReply {
		return nil, errors.New("wrong header of an answer")
	}
	answer := make([]byte, ne.Uint32(head[8:]))
	_, err := io.ReadFull(d.ctl, answer)
	return answer, err
}

// must is request for those that have no answer but a status of success.
func (d *driver) must(request uint32, payload []byte, fds ...int) {
	d.t.Helper()
	answer, err := d.request(request, payload, fds...)
	if err != nil || len(answer) != 8 || binary.NativeEndian.Uint64(answer) != 0 {
		d.t.Fatalf("request %d: answer %x, %v", request, answer, err)
	}
}

// numbers encodes numbers of the protocol, each as it is.
func numbers(values ...any) []byte {
	var b []byte
	for _, v := range values {
		b, _ = binary.Append(b, binary.NativeEndian, v)
	}
	return b
}

// memTable is the payload that describes the guest's memory.
func memTable() []byte {
	return numbers(uint32(1), uint32(0), uint64(guestBase), uint64(memorySize), uint64(userBase), uint64(fileOffset), [64]byte{})
}

// setUp does what a front end does to start a device.
func (d *driver) setUp() {
	d.t.Helper()
	d.must(reqSetOwner, nil)
	d.must(reqSetFeatures, numbers(d.features))
	d.must(reqSetMemTable, memTable(), d.fd)
	for i := range d.rings {
		d.setUpRing(i, 0)
	}
}

func (d *driver) setUpRing(i int, base uint32) {
	d.t.Helper()
	r := d.rings[i]
	d.must(reqSetVringNum, numbers(uint32(i), uint32(r.num)))
	d.must(reqSetVringBase, numbers(uint32(i), base))
	d.must(reqSetVringAddr, numbers(uint32(i), uint32(0), uint64(userBase+r.desc), uint64(userBase+r.used), uint64(userBase+r.avail), uint64(0)))
	d.must(reqSetVringCall, numbers(uint64(i)), r.call)
	d.must(reqSetVringKick, numbers(uint64(i)), r.kick)
	d.must(reqSetVringEnable, numbers(uint32(i), uint32(1)))
}

// word is a number in the memory that both sides touch.
func (d *driver) word(offset int) *uint32 { return (*uint32)(unsafe.Pointer(&d.mem[offset])) }

// descriptor writes an entry of a table at an offset.
func (d *driver) descriptor(table, i int, addr uint64, size uint32, flags, next uint16) {
	le, b := binary.LittleEndian, d.mem[table+16*i:]
	le.PutUint64(b, addr)
	le.PutUint32(b[8:], size)
	le.PutUint16(b[12:], flags)
	le.PutUint16(b[14:], next)
}

// publish makes a chain available.
func (d *driver) publish(r *driverRing, head uint16) {
	binary.LittleEndian.PutUint16(d.mem[r.avail+4+2*int(r.next)%(2*r.num):], head)
	r.next++
	atomic.StoreUint32(d.word(r.avail), uint32(r.next)<<16)
}

// notify kicks the device.
func (d *driver) notify(i int) { _, _ = unix.Write(d.rings[i].kick, []byte{1, 0, 0, 0, 0, 0, 0, 0}) }

// usedIndex is how many chains the device gave back.
func (d *driver) usedIndex(r *driverRing) uint16 {
	return uint16(atomic.LoadUint32(d.word(r.used)) >> 16)
}

// offer makes the next buffer of the receive ring available: its header in one
// descriptor and a part of its bytes in another.
func (d *driver) offer() {
	r := d.rings[rxRing]
	i := int(r.next) % (r.num / 2)
	addr := uint64(guestBase + r.buffers + i*rxBufferSize)
	d.descriptor(r.desc, 2*i, addr, headerSize-4, descWrite|descNext, uint16(2*i+1))
	d.descriptor(r.desc, 2*i+1, addr+headerSize-4, rxBufferSize-headerSize+4, descWrite, 0)
	if int(r.next) < r.num/2 || int(r.next-d.usedIndex(r)) < r.num/2 {
		d.publish(r, uint16(2*i))
	}
}

// receive passes packets on until the driver ends.
func (d *driver) receive() {
	defer close(d.packets)
	r := d.rings[rxRing]
	var b [8]byte
	for {
		if p, ok := d.packet(r); ok {
			d.packets <- p
			continue
		}
		// The device makes its end non-blocking, and so this one.
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(r.call), Events: unix.POLLIN}}, -1)
		_, _ = unix.Read(r.call, b[:])
		if d.quit.Load() {
			return
		}
	}
}

// packet takes the next packet that the device has put into the ring. If there
// is none it asks for an interrupt.
func (d *driver) packet(r *driverRing) (packet, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.quit.Load() {
		return packet{}, false
	}
	if r.lastUsed == d.usedIndex(r) {
		binary.LittleEndian.PutUint16(d.mem[r.avail+4+2*r.num:], r.lastUsed)
		if fence(); r.lastUsed == d.usedIndex(r) {
			return packet{}, false
		}
	}
	at := r.used + 4 + 8*(int(r.lastUsed)%r.num)
	head := int(binary.LittleEndian.Uint32(d.mem[at:]))
	n := int(binary.LittleEndian.Uint32(d.mem[at+4:]))
	data := append([]byte(nil), d.mem[r.buffers+head/2*rxBufferSize:][:n]...)
	r.lastUsed++
	d.offer()
	d.notify(rxRing)
	return packet{decodeHeader(data), data[headerSize:]}, true
}

// send sends a packet to the device, through an indirect table if there may be
// one. It waits for room.
func (d *driver) send(h header, data []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.rings[txRing]
	for !d.quit.Load() && int(r.next-d.usedIndex(r)) >= r.num/4 {
		d.mu.Unlock()
		time.Sleep(100 * time.Microsecond)
		d.mu.Lock()
	}
	if d.quit.Load() {
		return
	}
	i := int(r.next) % (r.num / 4)
	offset := r.buffers + i*16384
	h.len = uint32(len(data))
	h.encode(d.mem[offset:])
	copy(d.mem[offset+headerSize:], data)
	addr := uint64(guestBase + offset)
	if d.features&featureIndirect != 0 {
		table := r.buffers + 16*16384 + i*64
		d.descriptor(table, 0, addr, headerSize+1, descNext, 1)
		d.descriptor(table, 1, addr+headerSize+1, uint32(max(len(data)-1, 0)), 0, 0)
		d.descriptor(r.desc, i, uint64(guestBase+table), 32, descIndirect, 0)
		if len(data) == 0 {
			d.descriptor(table, 0, addr, headerSize, 0, 0)
		}
	} else {
		d.descriptor(r.desc, i, addr, headerSize+uint32(len(data)), 0, 0)
	}
	d.publish(r, uint16(i))
	d.notify(txRing)
}
