package vsockdev

import (
	"errors"
	"fmt"
	"math"

	"golang.org/x/sys/unix"
)

// maxRegions bounds the memory regions of a guest.
const maxRegions = 64

// A region is a part of the guest's memory, mapped here.
type region struct {
	guest, size, user uint64 // as the front end says: address in the guest, bytes, address in the front end
	offset            uint64 // in the file
	fd                int    // of the file, the region's own
	mapping           []byte // the file from its start
	data              []byte // of those the region
}

// mapRegion maps size bytes of fd from offset on. The descriptor stays the
// caller's.
func mapRegion(fd int, guest, size, user, offset uint64) (region, error) {
	end := offset + size
	if size == 0 || end < size || end > math.MaxInt64 || guest+size < size || user+size < size {
		return region{}, fmt.Errorf("memory region of %#x bytes at %#x, offset %#x", size, guest, offset)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return region{}, fmt.Errorf("memory region: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || uint64(st.Size) < end {
		return region{}, fmt.Errorf("memory region ends at %#x of a file of %#x bytes", end, st.Size)
	}
	// Files of huge pages are mapped in whole pages. The offset is not always
	// one of a page's, so the mapping begins at the file's start.
	block := max(uint64(st.Blksize), 1)
	length := (end + block - 1) / block * block
	m, err := unix.Mmap(fd, 0, int(length), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		return region{}, fmt.Errorf("map a memory region of %#x bytes: %w", size, err)
	}
	// What is mapped can be told from what the core of this process should have.
	_ = unix.Madvise(m, unix.MADV_DONTDUMP)
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		_ = unix.Munmap(m)
		return region{}, fmt.Errorf("memory region: %w", err)
	}
	return region{guest: guest, size: size, user: user, offset: offset, fd: own, mapping: m, data: m[offset:end:end]}, nil
}

func (r *region) unmap() {
	if r.mapping != nil {
		_ = unix.Munmap(r.mapping)
		unix.Close(r.fd)
		r.mapping, r.data = nil, nil
	}
}

// memory is all of a guest's.
type memory struct {
	regions []region
	last    int // index of the region that was found last
}

// add adds a region, which must not overlap another.
func (m *memory) add(r region) error {
	if len(m.regions) >= maxRegions {
		return fmt.Errorf("more than %d memory regions", maxRegions)
	}
	for _, o := range m.regions {
		if r.guest < o.guest+o.size && o.guest < r.guest+r.size {
			return fmt.Errorf("memory regions overlap at %#x", max(r.guest, o.guest))
		}
	}
	m.regions = append(m.regions, r)
	return nil
}

// remove unmaps a region.
func (m *memory) remove(guest, size, user uint64) error {
	for i, r := range m.regions {
		if r.guest == guest && r.size == size && r.user == user {
			r.unmap()
			m.regions = append(m.regions[:i], m.regions[i+1:]...)
			m.last = 0
			return nil
		}
	}
	return fmt.Errorf("no memory region of %#x bytes at %#x", size, guest)
}

// unmap unmaps everything.
func (m *memory) unmap() {
	for i := range m.regions {
		m.regions[i].unmap()
	}
	m.regions, m.last = nil, 0
}

var errOutside = errors.New("outside of the guest's memory")

// at returns the memory from a guest address on, up to size bytes or the end of
// its region.
func (m *memory) at(addr, size uint64) ([]byte, error) {
	for range len(m.regions) {
		r := &m.regions[m.last]
		if off := addr - r.guest; off < r.size { // also false if addr is below
			return r.data[off : off+min(size, r.size-off)], nil
		}
		m.last++
		if m.last == len(m.regions) {
			m.last = 0
		}
	}
	return nil, errOutside
}

// appendSlices appends the memory of a range of guest addresses to s: a slice
// for each region that it lies in.
func (m *memory) appendSlices(s [][]byte, addr, size uint64) ([][]byte, error) {
	for size > 0 {
		b, err := m.at(addr, size)
		if err != nil {
			return s, err
		}
		s = append(s, b)
		addr += uint64(len(b))
		size -= uint64(len(b))
	}
	return s, nil
}

// atUser returns size bytes at an address of the front end's, all in one region.
func (m *memory) atUser(addr, size uint64) ([]byte, error) {
	for i := range m.regions {
		r := &m.regions[i]
		if off := addr - r.user; off < r.size && size <= r.size-off {
			return r.data[off : off+size : off+size], nil
		}
	}
	return nil, errOutside
}
