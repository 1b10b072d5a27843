//go:build linux

package hostile

import (
	"bytes"
	"context"
	"errors"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vsockrpc/vsockrpc/guest"
	"github.com/vsockrpc/vsockrpc/internal/wait"
)

// native is a frame of the native wire (PROTOCOL.md, section 2).
func native(typ, flags byte, stream uint32, payload []byte) []byte {
	b := []byte{0, byte(len(payload) >> 16), byte(len(payload) >> 8), byte(len(payload)), typ, flags, 0, 0}
	b = append(b, byte(stream>>24), byte(stream>>16), byte(stream>>8), byte(stream))
	return append(b, payload...)
}

// servers are what a guest can send that is no agent, or one that has been replaced.
var servers = map[string]func(a attacker){
	"nothing":      func(attacker) {},
	"an end":       func(a attacker) { a.Close() },
	"HTTP/1":       func(a attacker) { a.flood(1, of("HTTP/1.1 400 Bad Request\r\n\r\n")) },
	"ssh":          func(a attacker) { a.flood(1, of("SSH-2.0-OpenSSH_9.9\r\n")) },
	"text of evil": func(a attacker) { a.flood(10_000, of(Evil+"\n")) },
	"zeros":        func(a attacker) { a.flood(1000, of(strings.Repeat("\x00", 64<<10))) },
	"half a magic": func(a attacker) { a.flood(1, of(nativeMagic[:7])) },
	"magic alone":  func(a attacker) { a.flood(1, of(nativeMagic)) },
	"a HELLO of 4 GiB": func(a attacker) {
		a.flood(1, of(nativeMagic+"\xff\xff\xff\xff\x01\x00\x00\x00\x00\x00\x00\x00"))
		a.flood(1000, of(strings.Repeat("a", 64<<10)))
	},
	"answers to nothing": func(a attacker) {
		a.flood(1, of(string(nativePreface)))
		a.flood(1000, func(i uint32) []byte { return native(5, 2, 2*i+99, []byte("x")) })
	},
	"frames to ignore": func(a attacker) {
		a.flood(1, of(string(nativePreface)))
		a.flood(1000, of(strings.Repeat(string(native(0x90, 0, 1, make([]byte, 100))), 100)))
	},
	"PING without end": func(a attacker) {
		a.flood(1, of(string(nativePreface)))
		a.flood(1000, of(strings.Repeat(string(native(8, 0, 0, make([]byte, 8))), 100)))
	},
	"too much credit": func(a attacker) {
		a.flood(1, of(string(nativePreface)))
		a.flood(1, of(string(native(7, 0, 0, []byte{0xff, 0xff, 0xff, 0xff}))))
	},
	"GOAWAY": func(a attacker) {
		a.flood(1, of(string(nativePreface)+string(native(9, 0, 0, append(make([]byte, 8), Evil...)))))
	},
	"HTTP/2 SETTINGS alone": func(a attacker) { a.flood(1, of(string(h2Frame(h2Settings, 0, 0, nil)))) },
	"HTTP/2 SETTINGS without end": func(a attacker) {
		a.flood(1000, of(strings.Repeat(string(h2Frame(h2Settings, 0, 0, nil)), 100)))
	},
	"HTTP/2 PING without end": func(a attacker) {
		a.flood(1, of(string(h2Frame(h2Settings, 0, 0, nil))))
		a.flood(1000, of(strings.Repeat(string(h2Frame(h2Ping, 0, 0, make([]byte, 8))), 100)))
	},
	"HTTP/2 answers to nothing": func(a attacker) {
		a.flood(1, of(string(h2Frame(h2Settings, 0, 0, nil))))
		a.flood(1000, func(i uint32) []byte {
			return h2Frame(h2Headers, endHeaders|endStream, 2*i+99, h2Fields(":status", "200", "grpc-status", "0"))
		})
	},
	"HTTP/2 headers without end": func(a attacker) {
		a.flood(1, of(string(h2Frame(h2Settings, 0, 0, nil))+string(h2Frame(h2Headers, 0, 1, h2Fields(":status", "200")))))
		field := bytes.Repeat(h2Fields("x-a", strings.Repeat("y", 100)), 100)
		a.flood(5000, func(uint32) []byte { return h2Frame(h2Continuation, 0, 1, field) })
	},
	"HTTP/2 headers of evil": func(a attacker) {
		a.flood(1, of(string(h2Frame(h2Settings, 0, 0, nil))+
			string(h2Frame(h2Headers, endHeaders|endStream, 1, h2Fields(":status", "200", "content-type", "application/grpc", "grpc-status", "14", "grpc-message", "%1B]52;c;evil%07")))))
	},
	"a frame of 16 MiB": func(a attacker) {
		a.flood(1, of(string(h2Frame(h2Settings, 0, 0, nil))+"\xff\xff\xff\x00\x00\x00\x00\x00\x01"))
		a.flood(1000, of(strings.Repeat("a", 64<<10)))
	},
}

func of(s string) func(uint32) []byte { return func(uint32) []byte { return []byte(s) } }

// TestHostileServer: whatever answers in the place of an agent, Dial ends in time,
// with an error that says what is wrong.
func TestHostileServer(t *testing.T) {
	runtime.GC()
	goroutines, memory := runtime.NumGoroutine(), inUse()
	var all sync.WaitGroup
	for name, do := range servers {
		for _, wire := range []guest.Wire{guest.WireNative, guest.WireGRPC} {
			all.Go(func() {
				var conns sync.WaitGroup
				defer conns.Wait()
				dial := func(context.Context) (net.Conn, error) {
					client, server, err := socketPair()
					if err != nil {
						return nil, err
					}
					conns.Go(func() {
						defer server.Close()
						// It reads for a while, and then no more.
						reading := make(chan struct{})
						go func() {
							defer close(reading)
							attacker{server}.ended()
						}()
						do(attacker{server})
						<-reading
					})
					return client, nil
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				g, err := guest.Dial(ctx, "hostile", &guest.Config{Wire: wire, Dialer: dial, Reconnect: -1})
				if err == nil {
					g.Close()
					t.Errorf("%s, %s: Dial has succeeded", name, wire)
					return
				}
				if e, ok := errors.AsType[*guest.Error](err); !ok || e.Op == "" || e.Message() == "" {
					t.Errorf("%s, %s: %#v", name, wire, err)
				}
			})
		}
	}
	all.Wait()
	if n := inUse(); n > memory+64<<20 {
		t.Errorf("%d MiB in use, %d before", n>>20, memory>>20)
	}
	wait.For(t, "goroutines have ended", func() bool { return runtime.NumGoroutine() <= goroutines+5 })
}

// socketPair returns two connected sockets.
func socketPair() (client, server net.Conn, err error) {
	l, err := net.Listen("unix", "")
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	if client, err = net.Dial("unix", l.Addr().String()); err != nil {
		return nil, nil, err
	}
	server, err = l.Accept()
	return client, server, err
}
