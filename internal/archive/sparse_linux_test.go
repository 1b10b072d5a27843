package archive

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// TestHolesAreZeros shows that a hole has the hash of the zeros that it reads as,
// also after a rewind into it.
func TestHolesAreZeros(t *testing.T) {
	for i, n := range []uint64{0, 1, 4096, uint64(len(zeros)), 3*uint64(len(zeros)) + 17, 0, 1, 4096, 3*uint64(len(zeros)) + 17} {
		crc := i >= 5
		a, b := newRolling(crc), newRolling(crc)
		for _, r := range []*Rolling{a, b} {
			r.write([]byte("before"))
			r.mark()
		}
		a.hole(n)
		b.write(make([]byte, n))
		if !a.sum().equal(b.sum()) || a.offset != b.offset {
			t.Errorf("a hole of %d bytes has another hash than zeros", n)
		}
		a.rewind(6 + n/2)
		if n > 1 && !a.sum().equal(sumOf([]byte("before"), crc)) {
			t.Errorf("a hole of %d bytes, rewound into: another hash", n)
		}
	}
}

// TestSparseAndDense cuts the copy of a file with holes, and goes on with one of
// the same file without, and the other way round: nothing is sent again, and the
// result is the same.
func TestSparseAndDense(t *testing.T) {
	const size = 24 << 20
	contents := make([]byte, size)
	rand.NewChaCha8([32]byte{7}).Read(contents[:2<<20])
	rand.NewChaCha8([32]byte{8}).Read(contents[15<<20 : 18<<20])
	when := time.Unix(1_000_000_000, 0)
	source := func(t *testing.T, name string, sparse bool) {
		t.Helper()
		f, err := os.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if sparse {
			_, a := f.WriteAt(contents[:2<<20], 0)
			_, b := f.WriteAt(contents[15<<20:18<<20], 15<<20)
			err = errors.Join(a, b, f.Truncate(size))
		} else {
			_, err = f.Write(contents)
		}
		if err = errors.Join(err, os.Chtimes(name, when, when)); err != nil {
			t.Fatal(err)
		}
	}
	for _, first := range []bool{true, false} {
		t.Run(map[bool]string{true: "sparse, then dense", false: "dense, then sparse"}[first], func(t *testing.T) {
			dir := t.TempDir()
			src, dst := filepath.Join(dir, "src"), filepath.Join(dir, "dst")
			if err := os.Mkdir(dst, 0o755); err != nil {
				t.Fatal(err)
			}
			source(t, src, first)
			id := [16]byte{1}
			run := func(ctx context.Context, resume bool, onReceived func(Done)) (sent uint64, err error) {
				forth, back := newPipe(ctx)
				done := make(chan struct{})
				go func() {
					defer close(done)
					_, _ = Send(forth, &SendConfig{Sources: []Source{{Path: src}}, Resume: resume, Options: &guestv1.TransferOptions{},
						OnDone: func(d Done) { sent += d.Size }})
				}()
				_, err = Receive(back, &ReceiveConfig{Transfer: id, Destination: dst, Names: []string{"f"}, Resume: resume, Options: &guestv1.TransferOptions{}, OnDone: onReceived})
				<-done
				return sent, err
			}
			// In the midst of the second part, beyond the hole.
			ctx, cut := context.WithCancel(t.Context())
			received := uint64(0)
			_, err := run(ctx, false, func(d Done) {
				if received += d.Bytes; received > 16<<20 {
					cut()
				}
			})
			if !errors.Is(err, ErrCut) {
				t.Fatalf("the first copy: %v", err)
			}
			source(t, src, !first)
			left, err := run(t.Context(), true, nil)
			if err != nil {
				t.Fatal(err)
			}
			if left > size-16<<20 {
				t.Errorf("%d bytes of %d were left to be sent", left, size)
			}
			got, err := os.ReadFile(filepath.Join(dst, "f"))
			if err != nil || !bytes.Equal(got, contents) {
				t.Errorf("%d bytes, %v: not the same", len(got), err)
			}
		})
	}
}

// newPipe returns two ends of a stream.
func newPipe(ctx context.Context) (a, b *pipe) {
	forth, back := make(chan []byte, 1), make(chan []byte, 1)
	return &pipe{ctx: ctx, in: back, out: forth, ended: make(chan struct{})}, &pipe{ctx: ctx, in: forth, out: back, ended: make(chan struct{})}
}
