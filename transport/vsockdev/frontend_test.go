//go:build linux

package vsockdev

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestFrontEnd asks what front ends ask before they start.
func TestFrontEnd(t *testing.T) {
	_, path := startDevice(t, Config{CID: 77})
	d := connectDriver(t, path, 0)
	for _, tt := range []struct {
		request uint32
		payload []byte
		want    []byte
	}{
		{reqGetFeatures, nil, numbers(uint64(features))},
		{reqGetProtocolFeatures, nil, numbers(uint64(protocolFeatures))},
		{reqSetProtocolFeatures, numbers(uint64(protocolFeatures)), numbers(uint64(0))},
		{reqGetQueueNum, nil, numbers(uint64(numRings))},
		{reqGetMaxMemSlots, nil, numbers(uint64(maxRegions))},
		{reqSetStatus, numbers(uint64(15)), numbers(uint64(0))},
		{reqGetStatus, nil, numbers(uint64(15))},
		{reqGetConfig, numbers(uint32(0), uint32(8), uint32(0), uint64(0)), numbers(uint32(0), uint32(8), uint32(0), uint64(77))},
		{reqGetConfig, numbers(uint32(4), uint32(4), uint32(1), uint32(0)), numbers(uint32(4), uint32(4), uint32(1), uint32(0))},
		{reqSetVringBase, numbers(uint32(1), uint32(40)), numbers(uint64(0))},
		{reqGetVringBase, numbers(uint32(1), uint32(0)), numbers(uint32(1), uint32(40))},
		{reqResetOwner, nil, numbers(uint64(0))},
	} {
		if got, err := d.request(tt.request, tt.payload); err != nil || !bytes.Equal(got, tt.want) {
			t.Errorf("request %d: %x, %v, want %x", tt.request, got, err, tt.want)
		}
	}
}

// TestWrongRequests makes requests that no front end would. Each is refused, and
// the descriptors that come with them are closed.
func TestWrongRequests(t *testing.T) {
	_, path := startDevice(t, Config{})
	d := connectDriver(t, path, 0)
	d.must(reqSetOwner, nil) // now the session has all that it needs
	before := openFiles(t)
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	fd := int(null.Fd())
	region := func(guest, size, user, offset uint64) []byte {
		return numbers(uint32(1), uint32(0), guest, size, user, offset)
	}
	for _, tt := range []struct {
		name    string
		request uint32
		payload []byte
		fds     []int
	}{
		{"unknown", 99, nil, nil},
		{"0", 0, nil, nil},
		{"features without VERSION_1", reqSetFeatures, numbers(uint64(0)), nil},
		{"features that were not offered", reqSetFeatures, numbers(uint64(1 << 33)), nil},
		{"features of the protocol", reqSetProtocolFeatures, numbers(uint64(1 << 14)), nil},
		{"features too short", reqSetFeatures, numbers(uint32(0)), nil},
		{"no memory table", reqSetMemTable, nil, nil},
		{"a table without descriptors", reqSetMemTable, region(0, 4096, 0, 0), nil},
		{"a table with too many", reqSetMemTable, region(0, 4096, 0, 0), []int{d.fd, d.fd}},
		{"a table of 2^32-1 regions", reqSetMemTable, numbers(uint32(1<<32-1), uint32(0)), []int{d.fd}},
		{"a table of a device", reqSetMemTable, region(0, 4096, 0, 0), []int{fd}},
		{"a region behind its file", reqSetMemTable, region(0, memorySize, 0, 1<<40), []int{d.fd}},
		{"a region of no size", reqAddMemRegion, numbers(uint64(0), uint64(0), uint64(0), uint64(0), uint64(0)), []int{d.fd}},
		{"a region without descriptor", reqAddMemRegion, numbers(uint64(0), uint64(0), uint64(4096), uint64(0), uint64(0)), nil},
		{"an unknown region", reqRemMemRegion, numbers(uint64(0), uint64(0), uint64(4096), uint64(0), uint64(0)), []int{fd}},
		{"ring 3", reqSetVringNum, numbers(uint32(3), uint32(64)), nil},
		{"ring 2^32-1", reqSetVringAddr, numbers(uint32(1<<32-1), [36]byte{}), nil},
		{"base of 2^16", reqSetVringBase, numbers(uint32(0), uint32(1<<16)), nil},
		{"no kick", reqSetVringKick, numbers(uint64(noFD)), nil},
		{"a kick that cannot be watched", reqSetVringKick, numbers(uint64(0)), []int{d.fd}},
		{"two kicks", reqSetVringKick, numbers(uint64(0)), []int{fd, fd}},
		{"a call without descriptor", reqSetVringCall, numbers(uint64(0)), nil},
		{"configuration of 4 GiB", reqGetConfig, numbers(uint32(0), uint32(1<<32-1), uint32(0)), nil},
		{"configuration far off", reqGetConfig, numbers(uint32(1<<32-1), uint32(8), uint32(0), uint64(0)), nil},
		{"a new configuration", reqSetConfig, numbers(uint32(0), uint32(8), uint32(0), uint64(5)), nil},
		{"no channel", reqSetBackendReqFD, nil, nil},
	} {
		answer, err := d.request(tt.request, tt.payload, tt.fds...)
		if err != nil || len(answer) != 8 || binary.NativeEndian.Uint64(answer) == 0 {
			// A request that has an answer of its own ends the session instead.
			if tt.request != reqGetConfig {
				t.Errorf("%s: %x, %v, want a refusal", tt.name, answer, err)
			}
		}
	}
	null.Close()
	if after := openFiles(t); after != before {
		t.Errorf("%d descriptors are open, before it were %d", after, before)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// TestWrongFraming sends what is no message: the session ends, and the next
// front end is served.
func TestWrongFraming(t *testing.T) {
	_, path := startDevice(t, Config{})
	for name, b := range map[string][]byte{
		"version 0":        numbers(uint32(1), uint32(0), uint32(0)),
		"a reply":          numbers(uint32(1), uint32(5), uint32(0)),
		"too long":         numbers(uint32(1), uint32(1), uint32(maxPayload+1)),
		"2^32-1":           numbers(uint32(1), uint32(1), uint32(1<<32-1)),
		"half a head":      numbers(uint32(1)),
		"half of it":       numbers(uint32(2), uint32(1), uint32(8), uint32(0)),
		"no need to reply": numbers(uint32(99), uint32(1), uint32(0)),
	} {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
		c.(*net.UnixConn).CloseWrite()
		if got, err := io.ReadAll(c); len(got) > 0 {
			t.Errorf("%s: answer %x, %v", name, got, err)
		}
		c.Close()
	}
	startGuest(t, path, 0).listen(7, echo)
}

// FuzzFrontEnd makes any requests in a row.
func FuzzFrontEnd(f *testing.F) {
	f.Add([]byte{reqSetMemTable, 1}, memTable())
	f.Add([]byte{reqSetFeatures, 0, reqSetVringAddr, 0, reqSetVringKick, 1, reqSetVringEnable, 0}, make([]byte, 40))
	f.Add([]byte{reqGetConfig, 0, reqGetVringBase, 0}, numbers(uint32(0), uint32(8), uint32(0), uint64(0)))
	f.Fuzz(func(t *testing.T, requests, payload []byte) {
		epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(epoll)
		s := newSetup(epoll, func() {})
		defer s.close()
		for len(requests) >= 2 && len(payload) <= maxPayload {
			m := &message{request: uint32(requests[0]), payload: payload}
			for range requests[1] % 4 {
				fd, err := unix.MemfdCreate("guest", unix.MFD_CLOEXEC)
				if err != nil {
					t.Fatal(err)
				}
				_ = unix.Ftruncate(fd, 1<<16)
				if m.request == reqSetVringKick {
					unix.Close(fd)
					if fd, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
						t.Fatal(err)
					}
				}
				m.fds = append(m.fds, fd)
			}
			_, _ = s.handle(m, 3)
			m.close()
			requests = requests[2:]
			if len(payload) > 16 {
				payload = payload[len(payload)/8:]
			}
			for i := range numRings {
				if r := s.running(i); r != nil {
					var c chain
					_, _ = r.take(&c)
					r.show()
				}
			}
		}
	})
}
