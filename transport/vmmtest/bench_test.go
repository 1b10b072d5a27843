package vmmtest_test

import (
	"io"
	"net"
	"path/filepath"
	"testing"

	"github.com/vsockrpc/vsockrpc/transport/vmmtest"
)

// BenchmarkThroughput measures one direction of one connection, and, to compare
// with, a Unix socket alone.
func BenchmarkThroughput(b *testing.B) {
	chunk := make([]byte, 64<<10)
	run := func(b *testing.B, from, to net.Conn) {
		b.SetBytes(int64(len(chunk)))
		done := make(chan struct{})
		go func() {
			io.Copy(io.Discard, struct{ io.Reader }{to})
			close(done)
		}()
		for b.Loop() {
			if _, err := from.Write(chunk); err != nil {
				b.Fatal(err)
			}
		}
		from.Close()
		<-done
	}
	b.Run("to-guest", func(b *testing.B) {
		v, l := start(b, vmmtest.Config{})
		host, guest := pair(b, v, l)
		run(b, host, guest)
	})
	b.Run("to-host", func(b *testing.B) {
		v, l := start(b, vmmtest.Config{})
		host, guest := pair(b, v, l)
		run(b, guest, host)
	})
	b.Run("unix", func(b *testing.B) {
		l, err := net.Listen("unix", filepath.Join(b.TempDir(), "s"))
		if err != nil {
			b.Fatal(err)
		}
		defer l.Close()
		from, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		to, err := l.Accept()
		if err != nil {
			b.Fatal(err)
		}
		defer to.Close()
		run(b, from, to)
	})
}

// BenchmarkEcho measures a byte there and back.
func BenchmarkEcho(b *testing.B) {
	v, l := start(b, vmmtest.Config{})
	host, guest := pair(b, v, l)
	go func() {
		io.Copy(guest, guest)
		guest.Close()
	}()
	buf := make([]byte, 1)
	for b.Loop() {
		mustWrite(b, host, buf)
		if _, err := io.ReadFull(host, buf); err != nil {
			b.Fatal(err)
		}
	}
}
