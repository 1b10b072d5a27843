package vmmtest

import (
	"bytes"
	"errors"
	"io"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// A buffer hands on all bytes in order and never holds more than it may.
func TestBufferModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.IntRange(1, 3*minRing).Draw(t, "size")
		b := newBuffer(size)
		expired := time.Unix(1, 0)
		b.setReadDeadline(time.Time{})
		b.setWriteDeadline(time.Time{})
		var model []byte
		next := byte(0)
		t.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) {
				p := make([]byte, rapid.IntRange(0, size-len(model)).Draw(t, "n"))
				for i := range p {
					p[i] = next
					next++
				}
				if n, err := b.write(p); n != len(p) || err != nil {
					t.Fatalf("write: %d, %v", n, err)
				}
				model = append(model, p...)
			},
			"read": func(t *rapid.T) {
				if len(model) == 0 {
					b.setReadDeadline(expired)
					defer b.setReadDeadline(time.Time{})
				}
				p := make([]byte, rapid.IntRange(1, 2*size).Draw(t, "n"))
				n, err := b.read(p)
				if len(model) == 0 {
					if n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Fatalf("read of nothing: %d, %v", n, err)
					}
					return
				}
				want := model[:min(len(p), len(model))]
				if err != nil || !bytes.Equal(p[:n], want) {
					t.Fatalf("read %v, %v; want %v", p[:n], err, want)
				}
				model = model[n:]
			},
			"": func(t *rapid.T) {
				if b.n != len(model) || len(b.ring) > size {
					t.Fatalf("holds %d bytes in %d, want %d in at most %d", b.n, len(b.ring), len(model), size)
				}
			},
		})
	})
}

// What ends a buffer ends the calls that wait on it.
func TestBufferEnds(t *testing.T) {
	tests := []struct {
		name        string
		end         func(*buffer)
		read, write error
	}{
		{"closeWrite", func(b *buffer) { b.closeWrite(syscall.EPIPE) }, io.EOF, syscall.EPIPE},
		{"closeRead", func(b *buffer) { b.closeRead(io.EOF, syscall.EPIPE) }, io.EOF, syscall.EPIPE},
		{"reset", func(b *buffer) { b.reset(errReset) }, errReset, errReset},
		{"reset after closeWrite", func(b *buffer) { b.closeWrite(syscall.EPIPE); b.reset(errReset) }, errReset, syscall.EPIPE},
		{"read deadline", func(b *buffer) {
			b.setReadDeadline(time.Now().Add(time.Second))
			b.setWriteDeadline(time.Now().Add(time.Second))
		}, os.ErrDeadlineExceeded, os.ErrDeadlineExceeded},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				empty, full := newBuffer(1), newBuffer(1)
				var readErr, writeErr error
				go func() { _, readErr = empty.read(make([]byte, 1)) }()
				go func() { _, writeErr = full.write(make([]byte, 2)) }()
				synctest.Wait()
				tt.end(empty)
				tt.end(full)
				time.Sleep(2 * time.Second)
				synctest.Wait()
				if readErr != tt.read || writeErr != tt.write {
					t.Errorf("read %v, write %v; want %v, %v", readErr, writeErr, tt.read, tt.write)
				}
			})
		})
	}
}

// A deadline that was moved does not expire at its old time.
func TestBufferDeadlineMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBuffer(1)
		start := time.Now()
		b.setReadDeadline(start.Add(time.Second))
		b.setReadDeadline(start.Add(3 * time.Second))
		_, err := b.read(make([]byte, 1))
		if d := time.Since(start); err != os.ErrDeadlineExceeded || d != 3*time.Second {
			t.Errorf("%v after %v", err, d)
		}
		b.setReadDeadline(time.Time{})
		if _, err := b.write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if n, err := b.read(make([]byte, 1)); n != 1 || err != nil {
			t.Errorf("read %d, %v without a deadline", n, err)
		}
	})
}
