package sock

import (
	"bytes"
	"io"
	"net"
	"testing"

	"github.com/vsockrpc/vsockrpc/rpc/internal/buf"
	"github.com/vsockrpc/vsockrpc/rpc/internal/wire"
)

// TestLargeFrameTakesTheBuffer shows that a frame which fills the read buffer goes
// to its consumer where it was read, and that one which shares it does not.
func TestLargeFrameTakesTheBuffer(t *testing.T) {
	frame := func(n int) []byte {
		return append(wire.AppendHeader(nil, wire.Header{Type: wire.FrameData, Flags: wire.FlagMsg, Stream: 1, Length: uint32(n)}), bytes.Repeat([]byte{byte(n)}, n)...)
	}
	tests := []struct {
		name  string
		bytes []byte
		sizes []int
		own   []bool
	}{
		{"alone", frame(40 << 10), []int{40 << 10}, []bool{true}},
		{"small", frame(1 << 10), []int{1 << 10}, []bool{false}},
		{"last", append(frame(100), frame(40<<10)...), []int{100, 40 << 10}, []bool{false, true}},
		{"first", append(frame(40<<10), frame(100)...), []int{40 << 10, 100}, []bool{false, false}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rd := &Reader{buf: buf.Pool.Get(readBuffer)}
			rd.w = copy(*rd.buf, tt.bytes)
			for i, size := range tt.sizes {
				_, p, own, ok, err := rd.Next()
				if err != nil || !ok || len(p) != size || p[size-1] != tt.bytes[len(tt.bytes)-1] && i == len(tt.sizes)-1 {
					t.Fatalf("frame %d: %d bytes, %v, %v", i, len(p), ok, err)
				}
				if (own != nil) != tt.own[i] || own != nil && rd.buf != nil {
					t.Errorf("frame %d has the buffer: %v, the reader: %v", i, own != nil, rd.buf != nil)
				}
			}
			if _, _, _, ok, err := rd.Next(); ok || err != nil {
				t.Errorf("after the last: %v, %v", ok, err)
			}
		})
	}
}

// pieces is a connection that brings b in pieces.
type pieces struct {
	net.Conn
	b    []byte
	size int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.b) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.b[:min(len(p.b), p.size)])
	p.b = p.b[n:]
	return n, nil
}

// FuzzReader reads arbitrary bytes in pieces of every size: the frames are those of the
// bytes as a whole, whoever keeps their memory.
func FuzzReader(f *testing.F) {
	header := func(typ wire.FrameType, n int) []byte {
		return wire.AppendHeader(nil, wire.Header{Type: typ, Stream: 1, Length: uint32(n), Flags: wire.FlagMsg})
	}
	f.Add(append(header(wire.FrameData, 3), "abc"...), uint16(3), uint16(1), false)
	f.Add(header(wire.FrameData, 40<<10), uint16(9000), uint16(9000), true)
	f.Add(header(wire.FrameData, 5000), uint16(5000), uint16(0), true)
	f.Add(header(wire.FrameData, wire.MaxPayload), uint16(12000), uint16(60000), false)
	f.Add(wire.AppendHeader(nil, wire.Header{Type: 0x40, Length: 1 << 31}), uint16(0), uint16(5), true)
	f.Fuzz(func(t *testing.T, b []byte, times, size uint16, split bool) {
		if b = bytes.Repeat(b, int(times)+1); len(b) > 1<<20 {
			b = b[:1<<20]
		}
		rd := NewReader(&pieces{b: bytes.Clone(b), size: int(size) + 1}, nil)
		defer func() { rd.Close() }()
		left := b
		for {
			h, p, own, ok, err := rd.Next()
			if ok {
				if len(left) < wire.HeaderLen || wire.ParseHeader(left) != h || !bytes.Equal(p, left[wire.HeaderLen:wire.HeaderLen+int(h.Length)]) {
					t.Fatalf("%+v with %d bytes is not what came", h, len(p))
				}
				left = left[wire.HeaderLen+len(p):]
				if own != nil {
					clear(*own) // it is ours
					buf.Pool.Put(own)
				} else if split {
					old := rd
					rd = rd.Split()
					clear(p) // it is old's
					old.Close()
				}
				continue
			}
			if err == nil {
				err = rd.Fill(0)
			}
			if err != nil {
				whole := len(left) >= wire.HeaderLen && wire.ParseHeader(left).Check() == nil &&
					uint64(wire.ParseHeader(left).Length) <= uint64(len(left)-wire.HeaderLen)
				if whole {
					t.Fatalf("%v, with a frame left of %d bytes", err, len(left))
				}
				return
			}
		}
	})
}
