package vsockdev

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// A portTable has the ports of all connections in a file's memory, so that a
// device that ends without a word leaves to the next what it has to reset. A
// slot is the guest's port and the host's; the host's is never 0.
type portTable struct {
	mem  []byte
	free []int // slots
}

const slotSize = 8

// openTable maps the table in fd, of n slots or as many as it has, and returns
// the connections in it, which it forgets.
func openTable(fd, n int) (*portTable, []key, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, nil, fmt.Errorf("table of connections: %w", err)
	}
	n = max(n, int(st.Size/slotSize))
	if err := unix.Ftruncate(fd, int64(n*slotSize)); err != nil {
		return nil, nil, fmt.Errorf("table of connections: %w", err)
	}
	mem, err := unix.Mmap(fd, 0, n*slotSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, nil, fmt.Errorf("table of connections: %w", err)
	}
	t := &portTable{mem: mem}
	var left []key
	for i := range n {
		b := mem[i*slotSize:]
		if k := (key{guest: binary.NativeEndian.Uint32(b), host: binary.NativeEndian.Uint32(b[4:])}); k != (key{}) {
			left = append(left, k)
		}
		t.free = append(t.free, i)
	}
	clear(mem)
	return t, left, nil
}

// add notes a connection, and returns its slot, or -1 if there is none.
func (t *portTable) add(k key) int {
	if len(t.free) == 0 {
		return -1
	}
	i := t.free[len(t.free)-1]
	t.free = t.free[:len(t.free)-1]
	binary.NativeEndian.PutUint32(t.mem[i*slotSize:], k.guest)
	binary.NativeEndian.PutUint32(t.mem[i*slotSize+4:], k.host)
	return i
}

// remove forgets the connection of a slot.
func (t *portTable) remove(i int) {
	if i >= 0 {
		clear(t.mem[i*slotSize : (i+1)*slotSize])
		t.free = append(t.free, i)
	}
}
