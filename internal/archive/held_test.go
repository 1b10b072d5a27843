package archive

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// TestAttributesAreBounded has a sender send attributes that nobody asked for, and
// more of those that were than a file can have.
func TestAttributesAreBounded(t *testing.T) {
	entry := func(n int) *guestv1.Entry {
		return &guestv1.Entry{User: []byte("root"), Group: []byte("root"), Xattrs: []*guestv1.TransferXattr{
			{Name: []byte("user.a"), Value: make([]byte, n)}, {Name: []byte("security.b"), Value: make([]byte, 10)}}}
	}
	isUser := func(name string) bool { return strings.HasPrefix(name, "user.") }
	for _, asked := range []bool{false, true} {
		r := &receiver{cfg: &ReceiveConfig{Options: &guestv1.TransferOptions{Archive: asked}, Xattr: isUser}}
		l := &relay{cfg: &RelayConfig{Archive: asked, Xattr: isUser}}
		for name, keep := range map[string]func(*guestv1.Entry) error{"receiver": r.keepAsked, "relay": l.keepAsked} {
			e := entry(1000)
			must(t, keep(e))
			if got := len(e.Xattrs); (got == 1) != asked || (len(e.User) > 0) != asked {
				t.Errorf("%s, asked for: %v: %d attributes, user %q", name, asked, got, e.User)
			}
			err := keep(entry(maxXattrs))
			if f, ok := errors.AsType[*Failure](err); asked != (ok && f.Reason == ReasonProtocol) {
				t.Errorf("%s, asked for: %v: too many are %v", name, asked, err)
			}
		}
	}
}

// TestWaitingFilesAreCounted has files with long paths wait for a sync.
func TestWaitingFilesAreCounted(t *testing.T) {
	var b batch
	dir := &target{path: strings.Repeat("d/", 1000)}
	message := &guestv1.Entry{Number: 1, Path: bytes.Repeat([]byte("p"), 4000), Contents: make([]byte, 1<<20)}
	n := 0
	for ; !b.full(1); n++ {
		b.add(newPlaced(message, dir, "temp", "name"))
		if n > batchSpan {
			t.Fatal("the batch is never full")
		}
	}
	if n < 400 || n > 600 {
		t.Errorf("full after %d files of 4,000 bytes each", n)
	}
	clear(message.Path)
	if b.files[0].entry[0] != 'p' {
		t.Error("what waits has its path in the message's memory")
	}
}

// TestUnsizedIsBounded packs a file that does not say how long it is, and has no end.
func TestUnsizedIsBounded(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	forth, back := make(chan []byte), make(chan []byte, 1000)
	h := &hostile{pipe: &pipe{ctx: ctx, in: back, out: forth, ended: make(chan struct{})}}
	go func() {
		h.number++
		e := &guestv1.Entry{Number: 1, Mode: modeRegular | 0o644, SizeUnknown: true}
		err := h.send(&guestv1.UploadRequest{Message: &guestv1.UploadRequest_File{File: &guestv1.FileStart{Entry: e}}})
		offset := uint64(0)
		for ; err == nil && offset <= 2*maxUnsized; offset += PieceBytes {
			err = h.piece(offset, make([]byte, PieceBytes), 0)
		}
		_ = h.send(&guestv1.UploadRequest{Message: &guestv1.UploadRequest_End{End: &guestv1.FileEnd{Size: offset}}})
		_ = h.finish()
	}()
	var failures []*Failure
	w := NewTarWriter(io.Discard, &TarConfig{Names: []string{"f"}, OnDone: func(d Done) {
		if d.Failure != nil {
			failures = append(failures, d.Failure)
		}
	}})
	_, err := w.Receive(&pipe{ctx: ctx, in: forth, out: back, ended: make(chan struct{})})
	must(t, err)
	if len(failures) != 1 || failures[0].Reason != ReasonTooManyBytes {
		t.Errorf("failures %v, want one with %s", failures, ReasonTooManyBytes)
	}
	var p pieces
	for _, n := range []int{1, 100, 200 << 10, 3} {
		p.write(bytes.Repeat([]byte{byte(n)}, n))
	}
	all := bytes.Join(p.all, nil)
	if len(all) != 200<<10+104 || len(p.all) != 4 || all[0] != 1 || all[1] != 100 || all[len(all)-1] != 3 {
		t.Errorf("%d bytes in %d pieces", len(all), len(p.all))
	}
}

// TestRelayedPathsAreBounded has a receiver acknowledge nothing, and a sender send long
// paths.
func TestRelayedPathsAreBounded(t *testing.T) {
	r := &relay{cfg: &RelayConfig{}}
	r.limits.left = newAllowance(0, 0)
	var err error
	n := 0
	for ; err == nil && n < 2*maxUnderway; n++ {
		e := &guestv1.Entry{Number: uint64(n + 1), Path: bytes.Repeat([]byte("p"), 4000)}
		if err = r.keepAsked(e); err == nil {
			err = r.note(e, 0)
		}
	}
	if f, ok := errors.AsType[*Failure](err); !ok || f.Reason != ReasonTooManyBytes || n > maxUnderwayBytes/4000+1 {
		t.Errorf("after %d entries: %v, want %s", n, err, ReasonTooManyBytes)
	}
	r.acknowledged(&guestv1.Acknowledge{Entries: uint64(n)})
	if r.underwayBytes > 4000 || len(r.underway) > 0 {
		t.Errorf("with all acknowledged %d entries of %d bytes are held", len(r.underway), r.underwayBytes)
	}
	if err := r.keepAsked(&guestv1.Entry{Path: make([]byte, maxPath+1)}); err == nil {
		t.Error("a path that is too long passes")
	}
}

// TestMadeIsBounded makes more entries than are remembered: the last ones are.
func TestMadeIsBounded(t *testing.T) {
	m := &Memory{}
	path := func(n int) []byte { return []byte{byte(n), byte(n >> 8), byte(n >> 16)} }
	for n := range 3 * maxMade {
		m.add(1, path(n))
	}
	if len(m.made.has) != maxMade || len(m.made.order) != maxMade {
		t.Errorf("%d and %d are remembered, want %d", len(m.made.has), len(m.made.order), maxMade)
	}
	if !m.has(1, path(3*maxMade-1)) || !m.has(1, path(2*maxMade)) || m.has(1, path(2*maxMade-1)) || m.has(0, path(3*maxMade-1)) {
		t.Error("others than the last ones are remembered")
	}
}
