//go:build linux

package vsockdev

import (
	"encoding/binary"
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// testMemory is size bytes of guest memory at guestBase, as a file and mapped.
func testMemory(t testing.TB, size uint64) *memory {
	t.Helper()
	fd, err := unix.MemfdCreate("guest", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		t.Fatal(err)
	}
	mem := new(memory)
	r, err := mapRegion(fd, guestBase, size, userBase, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := mem.add(r); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(mem.unmap)
	return mem
}

const testRing = 8

// testRingAt is a ring of 8 at the start of the memory: its descriptors, at 128
// what is available, at 256 what is used.
func testRingAt(t testing.TB, mem *memory, eventIdx bool) *ring {
	t.Helper()
	r, err := newRing(mem, testRing, userBase, userBase+128, userBase+256, 0, eventIdx, true)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func putDescriptor(b []byte, d descriptor) {
	le := binary.LittleEndian
	le.PutUint64(b, d.addr)
	le.PutUint32(b[8:], d.len)
	le.PutUint16(b[12:], d.flags)
	le.PutUint16(b[14:], d.next)
}

// TestHostileChains has a guest describe buffers in every wrong way.
func TestHostileChains(t *testing.T) {
	const base, end = guestBase, guestBase + 1<<16
	for name, tt := range map[string]struct {
		head     uint16
		table    []descriptor
		indirect []descriptor // at base + 4096
		idx      uint16       // of the available ring; 0 is 1
	}{
		"head out of the table":       {head: testRing},
		"head far out of it":          {head: 0xffff},
		"next out of the table":       {table: []descriptor{{base, 1, descNext, testRing}}},
		"a loop of one":               {table: []descriptor{{base, 1, descNext, 0}}},
		"a loop of two":               {table: []descriptor{{base, 1, descNext, 1}, {base, 1, descNext, 0}}},
		"before the memory":           {table: []descriptor{{base - 1, 2, 0, 0}}},
		"at 0":                        {table: []descriptor{{0, 1, 0, 0}}},
		"behind the memory":           {table: []descriptor{{end, 1, 0, 0}}},
		"across the end":              {table: []descriptor{{end - 1, 2, 0, 0}}},
		"4 GiB":                       {table: []descriptor{{base, 1<<32 - 1, 0, 0}}},
		"around the address space":    {table: []descriptor{{1<<64 - 1, 2, 0, 0}}},
		"written before read":         {table: []descriptor{{base, 1, descWrite | descNext, 1}, {base, 1, 0, 0}}},
		"more chains than entries":    {idx: testRing + 1},
		"an index that goes back":     {idx: 0xffff},
		"indirect of no entry":        {table: []descriptor{{base + 4096, 0, descIndirect, 0}}},
		"indirect of half an entry":   {table: []descriptor{{base + 4096, 8, descIndirect, 0}}},
		"indirect too long":           {table: []descriptor{{base + 4096, 16 * (maxChain + 1), descIndirect, 0}}},
		"indirect and next":           {table: []descriptor{{base + 4096, 16, descIndirect | descNext, 1}}},
		"indirect behind another":     {table: []descriptor{{base, 1, descNext, 1}, {base + 4096, 16, descIndirect, 0}}},
		"indirect outside":            {table: []descriptor{{end - 8, 16, descIndirect, 0}}},
		"indirect in indirect":        {table: []descriptor{{base + 4096, 16, descIndirect, 0}}, indirect: []descriptor{{base, 16, descIndirect, 0}}},
		"a loop in an indirect table": {table: []descriptor{{base + 4096, 32, descIndirect, 0}}, indirect: []descriptor{{base, 1, descNext, 1}, {base, 1, descNext, 0}}},
		"next out of an indirect one": {table: []descriptor{{base + 4096, 16, descIndirect, 0}}, indirect: []descriptor{{base, 1, descNext, 1}}},
	} {
		t.Run(name, func(t *testing.T) {
			mem := testMemory(t, 1<<16)
			r := testRingAt(t, mem, false)
			all := mem.regions[0].data
			for i, d := range tt.table {
				putDescriptor(all[16*i:], d)
			}
			for i, d := range tt.indirect {
				putDescriptor(all[4096+16*i:], d)
			}
			binary.LittleEndian.PutUint16(r.avail[4:], tt.head)
			binary.LittleEndian.PutUint16(r.avail[2:], max(tt.idx, 1))
			var c chain
			if ok, err := r.take(&c); ok || err == nil {
				t.Errorf("take: %v, %v, %+v, want an error", ok, err, c)
			}
		})
	}
}

// TestRingPlaces refuses rings that are not where they can be.
func TestRingPlaces(t *testing.T) {
	mem := testMemory(t, 1<<16)
	const u, end = userBase, userBase + 1<<16
	for name, tt := range map[string]struct {
		num               uint32
		desc, avail, used uint64
	}{
		"no entry":           {0, u, u + 128, u + 256},
		"not a power of 2":   {6, u, u + 128, u + 256},
		"too many":           {2048, u, u + 128, u + 256},
		"descriptors":        {8, end - 64, u + 128, u + 256},
		"available":          {8, u, end - 16, u + 256},
		"used":               {8, u, u + 128, end - 64},
		"before the memory":  {8, u - 16, u + 128, u + 256},
		"around everything":  {8, 1<<64 - 16, u + 128, u + 256},
		"not aligned":        {8, u + 8, u + 128, u + 256},
		"odd":                {8, u, u + 127, u + 256},
		"used at an odd one": {8, u, u + 128, u + 257},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := newRing(mem, tt.num, tt.desc, tt.avail, tt.used, 0, false, false); err == nil {
				t.Error("no error")
			}
		})
	}
}

// TestRegions refuses regions that their file has not, and overlaps.
func TestRegions(t *testing.T) {
	fd, err := unix.MemfdCreate("guest", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, 1<<16); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ guest, size, user, offset uint64 }{
		"no size":           {0, 0, 0, 0},
		"behind the file":   {0, 1<<16 + 1, 0, 0},
		"offset behind it":  {0, 1, 0, 1 << 16},
		"offset overflows":  {0, 2, 0, 1<<64 - 1},
		"size overflows":    {0, 1<<64 - 1, 0, 2},
		"address overflows": {1<<64 - 1, 2, 0, 0},
		"user overflows":    {0, 2, 1<<64 - 1, 0},
	} {
		if r, err := mapRegion(fd, tt.guest, tt.size, tt.user, tt.offset); err == nil {
			r.unmap()
			t.Errorf("%s: no error", name)
		}
	}
	var mem memory
	defer mem.unmap()
	for i, tt := range []struct {
		guest, size uint64
		ok          bool
	}{{0x1000, 0x1000, true}, {0x2000, 0x1000, true}, {0x1fff, 1, false}, {0, 0x1001, false}, {0, 0x4000, false}} {
		r, err := mapRegion(fd, tt.guest, tt.size, tt.guest, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := mem.add(r); (err == nil) != tt.ok {
			t.Errorf("region %d: %v", i, err)
		}
		if !tt.ok {
			r.unmap()
		}
	}
	// What lies across two regions has two slices.
	if s, err := mem.appendSlices(nil, 0x1ff0, 0x20); err != nil || len(s) != 2 || total(s) != 0x20 {
		t.Errorf("across two regions: %d slices, %v", len(s), err)
	}
	if _, err := mem.appendSlices(nil, 0x2ff0, 0x20); !errors.Is(err, errOutside) {
		t.Errorf("across the end: %v", err)
	}
	if err := mem.remove(0x1000, 0x1000, 0x1000); err != nil {
		t.Error(err)
	}
	if _, err := mem.at(0x1000, 1); !errors.Is(err, errOutside) {
		t.Errorf("a removed region: %v", err)
	}
}

// TestMaxRegions adds more regions than a guest may have.
func TestMaxRegions(t *testing.T) {
	var mem memory
	for i := range uint64(maxRegions) {
		if err := mem.add(region{guest: i << 20, size: 1 << 20}); err != nil {
			t.Fatal(err)
		}
	}
	if err := mem.add(region{guest: maxRegions << 20, size: 1 << 20}); err == nil {
		t.Error("one more is taken")
	}
}

// TestNotifications suppresses kicks and interrupts by both of the ways, around
// the end of the index.
func TestNotifications(t *testing.T) {
	le := binary.LittleEndian
	for _, eventIdx := range []bool{false, true} {
		mem := testMemory(t, 1<<16)
		r := testRingAt(t, mem, eventIdx)
		r.taken, r.seen, r.returned, r.shown, r.signaled = 0xfffe, 0xfffe, 0xfffe, 0xfffe, 0xfffe
		for i := range 4 {
			putDescriptor(r.desc[16*i:], descriptor{guestBase + 4096, 1, 0, 0})
		}
		le.PutUint16(r.avail[2:], 0xfffe)
		if r.wantKicks() {
			t.Error("more, and there is none")
		}
		le.PutUint16(r.avail[2:], 2) // 4 more
		if !r.wantKicks() {
			t.Error("no more, and there are 4")
		}
		r.refuseKicks()
		if flags := le.Uint16(r.used); (flags == usedNoNotify) == eventIdx {
			t.Errorf("flags %d of the used ring, eventIdx %v", flags, eventIdx)
		}
		if event := le.Uint16(r.used[4+8*testRing:]); eventIdx && event != 0xfffe {
			t.Errorf("kicks wanted from %#x on", event)
		}
		var c chain
		for i := range uint16(4) {
			if ok, err := r.take(&c); !ok || err != nil {
				t.Fatal(ok, err)
			}
			r.give(c.head, 0)
			// The driver wants to hear of the third.
			le.PutUint16(r.avail[4+2*testRing:], 0)
			if !eventIdx {
				le.PutUint16(r.avail, map[bool]uint16{true: 0, false: availNoInterrupt}[i == 2])
			}
			if n := r.show(); n == 0 {
				t.Error("nothing to be asked about")
			}
			if got := r.wantsInterrupt(); got != (i == 2) {
				t.Errorf("eventIdx %v, chain %d: interrupt %v", eventIdx, i, got)
			}
		}
		if got := le.Uint16(r.used[2:]); got != 2 {
			t.Errorf("index %d of the used ring, want 2", got)
		}
	}
}

// FuzzRing is the guest that puts anything into its memory, and changes it
// between any two looks of the device.
func FuzzRing(f *testing.F) {
	valid := make([]byte, 512)
	putDescriptor(valid, descriptor{guestBase + 300, 64, descNext, 1})
	putDescriptor(valid[16:], descriptor{guestBase + 400, 64, descWrite, 0})
	putDescriptor(valid[32:], descriptor{guestBase, 32, descIndirect, 0})
	binary.LittleEndian.PutUint16(valid[130:], 3)
	binary.LittleEndian.PutUint16(valid[134:], 2)
	f.Add(valid, []byte{1, 2, 3}, true)
	f.Add(make([]byte, 512), []byte{}, false)
	f.Fuzz(func(t *testing.T, image, changes []byte, eventIdx bool) {
		mem := testMemory(t, 8192)
		all := mem.regions[0].data
		copy(all, image)
		r := testRingAt(t, mem, eventIdx)
		defer mem.unmap()
		var c chain
		for i := 0; ; i++ {
			ok, err := r.take(&c)
			if err != nil || !ok || i > 100 {
				break
			}
			if total(c.read) != c.readLen || total(c.write) != c.writeN {
				t.Fatalf("a chain of %d and %d bytes has %d and %d", c.readLen, c.writeN, total(c.read), total(c.write))
			}
			var head [headerSize]byte
			if gather(head[:], c.read) {
				h := decodeHeader(head[:])
				_ = window(nil, c.read, headerSize, int(h.len))
			}
			if c.writeN > headerSize {
				scatter(c.write, head[:])
			}
			if i%3 == 2 {
				r.untake(1)
			} else {
				r.give(c.head, c.writeN)
			}
			r.show()
			r.wantsInterrupt()
			r.wantKicks()
			r.refuseKicks()
			for j := i; j+2 < len(changes); j += 3 {
				all[int(binary.LittleEndian.Uint16(changes[j:]))%len(all)] = changes[j+2]
			}
		}
	})
}
