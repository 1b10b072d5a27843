package sock

import (
	"bytes"
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
