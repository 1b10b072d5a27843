package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/vsockrpc/vsockrpc/internal/bench/benchpb"
)

// A peer is one stack, or one way to use it, under measurement.
type peer struct {
	name  string
	about string // how it is set up, for the report
	// serve answers on l for the life of the process.
	serve func(l net.Listener) error
	// connect makes a client for the server at the Unix socket path. It may
	// put off dialling to the first call.
	connect func(path string) (client, error)
}

// A client is one connection to a peer's server (drpc: one per caller). Except
// for caller, one method runs at a time.
type client interface {
	// caller returns a function that makes one Echo call with size bytes and
	// checks the answer's length. Each goroutine takes its own.
	caller(size int) (func() error, error)
	// down has the server stream size-byte messages for the time d, and
	// returns how many had come when the stream ended.
	down(size int, d time.Duration) (int, error)
	// up streams size-byte messages while more says so, and returns how many
	// it sent once the server has said that it has consumed them.
	up(size int, more func() bool) (int, error)
	close() error
}

// peers are all stacks in the order of the report.
var peers = []*peer{
	rawPingPong, rawMux, rawBatch,
	grpcPeer, ttrpcPeer, drpcPeer, connectPeer,
	vsockrpcPeer, vsockrpcPooled, vsockrpcNoSpin,
}

func peerByName(name string) (*peer, error) {
	for _, p := range peers {
		if p.name == name {
			return p, nil
		}
	}
	return nil, fmt.Errorf("no peer %q", name)
}

// downRequest is the payload that asks for a stream; see bench.proto.
func downRequest(size int, d time.Duration) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(size))
	return binary.BigEndian.AppendUint32(b, uint32(d.Milliseconds()))
}

// downPayload takes a downRequest apart. It returns the payload to repeat while
// more says so.
func downPayload(req []byte) (payload []byte, more func() bool, err error) {
	if len(req) != 8 {
		return nil, nil, fmt.Errorf("down: request of %d bytes", len(req))
	}
	d := time.Duration(binary.BigEndian.Uint32(req[4:])) * time.Millisecond
	return make([]byte, binary.BigEndian.Uint32(req)), during(d), nil
}

// during returns a function for one goroutine that is true once, and then until
// d has passed.
func during(d time.Duration) func() bool {
	var over atomic.Bool
	time.AfterFunc(d, func() { over.Store(true) })
	first := true
	return func() bool {
		if first {
			first = false
			return true
		}
		return !over.Load()
	}
}

// checkEcho checks an answer as an application would: by its length.
func checkEcho(m *benchpb.Msg, size int) error {
	if len(m.GetData()) != size {
		return fmt.Errorf("echo of %d bytes has %d", size, len(m.GetData()))
	}
	return nil
}
