package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// sent has steps send to whoever receives on the stream that it returns. The
// caller must call end when that has returned.
func sent(t *testing.T, steps ...func(*hostile) error) (st Stream, end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	forth, back := make(chan []byte), make(chan []byte, 1)
	ended := make(chan struct{})
	h := &hostile{pipe: &pipe{ctx: ctx, in: back, out: forth, ended: make(chan struct{})}}
	finished := make(chan struct{})
	go func() {
		for {
			select {
			case b := <-back:
				m := new(guestv1.UploadResponse)
				if proto.Unmarshal(b, m) == nil && m.GetFinished() != nil {
					close(finished)
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	go func() {
		defer close(ended)
		for _, s := range steps {
			if s(h) != nil {
				return
			}
		}
		h.finish()
		select {
		case <-finished:
		case <-ctx.Done():
		}
	}()
	return &pipe{ctx: ctx, in: forth, out: back, ended: ended}, func() {
		cancel()
		<-ended
	}
}

// TestTarWriterHostile has a sender do all it can to make an archive that does
// harm where it is unpacked.
func TestTarWriterHostile(t *testing.T) {
	type step = func(*hostile) error
	file := func(path string) step { return func(h *hostile) error { return h.file(path) } }
	dir := func(path string) step { return func(h *hostile) error { return h.dir(path) } }
	link := func(path, target string) step { return func(h *hostile) error { return h.link(path, target) } }
	tests := map[string]struct {
		steps  []step
		reason string
		failed int
		want   string // names in the archive
	}{
		"in order":        {steps: []step{dir(""), dir("a"), file("a/b"), link("a/c", "/etc/passwd"), file("d")}, want: "./ ./a/ ./a/b ./a/c ./d"},
		"below a link":    {steps: []step{link("a", "/etc"), file("a/passwd")}, reason: ReasonProtocol, want: "./a"},
		"below a file":    {steps: []step{file("a"), file("a/b")}, reason: ReasonProtocol, want: "./a"},
		"twice":           {steps: []step{file("a"), file("a")}, reason: ReasonProtocol, want: "./a"},
		"link, directory": {steps: []step{link("a", "/etc"), dir("a")}, reason: ReasonProtocol, want: "./a"},
		"top twice":       {steps: []step{dir(""), dir("")}, reason: ReasonProtocol, want: "./"},
		"top a file":      {steps: []step{file("")}, reason: ReasonProtocol},
		"back":            {steps: []step{file("b"), file("a")}, reason: ReasonProtocol, want: "./b"},
		"names": {steps: []step{file("../x"), file("/x"), file("a/../../x"), file("a\x00b"), file(strings.Repeat("n", 256)), file("ok")},
			failed: 5, want: "./ok"},
		"device": {steps: []step{func(h *hostile) error {
			return h.entry(&guestv1.Entry{Path: []byte("dev"), Mode: modeChar | 0o666})
		}, file("x")}, failed: 1, want: "./x"},
		"link to nowhere": {steps: []step{link("a", ""), link("b", "x\x00y"), link("c", strings.Repeat("l", 5000))}, failed: 3},
		"hard link out": {steps: []step{func(h *hostile) error {
			return h.entry(&guestv1.Entry{Path: []byte("z"), HardLink: &guestv1.Position{Path: []byte("../secret")}})
		}}, failed: 1},
		"wrong hash": {steps: []step{func(h *hostile) error {
			return h.entry(&guestv1.Entry{Path: []byte("a"), Contents: []byte("x"), Size: 1, Sha256: make([]byte, 32)})
		}}, failed: 1},
		"more than its size": {steps: []step{func(h *hostile) error { return h.start("a", 10, 0) }, func(h *hostile) error { return h.piece(0, make([]byte, 11), 0) }},
			reason: ReasonProtocol, want: "./a"},
		"an offset not asked for": {steps: []step{func(h *hostile) error { return h.start("a", 10, 5) }}, reason: ReasonProtocol},
		"a hole that overflows":   {steps: []step{func(h *hostile) error { return h.start("a", 10, 0) }, func(h *hostile) error { return h.piece(0, nil, 1<<63) }}, reason: ReasonTooManyBytes, want: "./a"},
		"bytes without end": {steps: []step{func(h *hostile) error { return h.start("a", 1<<40, 0) }, func(h *hostile) error {
			for offset := uint64(0); ; offset += PieceBytes {
				if err := h.piece(offset, make([]byte, PieceBytes), 0); err != nil {
					return err
				}
			}
		}}, reason: ReasonTooManyBytes, want: "./a"},
		"entries without end": {steps: []step{func(h *hostile) error {
			for {
				if err := h.send(&guestv1.UploadRequest{}); err != nil {
					return err
				}
			}
		}}, reason: ReasonTooMany},
		"user that is none": {steps: []step{func(h *hostile) error {
			return h.entry(&guestv1.Entry{Path: []byte("a"), User: []byte("a\x00b"), Group: []byte("\xff\n"), Mode: modeRegular | modeSetuid | 0o755})
		}}, want: "./a"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			st, end := sent(t, tt.steps...)
			var out bytes.Buffer
			failures := 0
			w := NewTarWriter(&out, &TarConfig{Names: []string{""}, MaxEntries: 10_000, MaxBytes: 8 << 20, OnDone: func(d Done) {
				if d.Failure != nil {
					failures++
				}
			}})
			_, err := w.Receive(st)
			end()
			reason := ""
			if f, ok := errors.AsType[*Failure](err); ok {
				reason = f.Reason
			} else if err != nil {
				t.Fatal(err)
			}
			if reason != tt.reason || failures != tt.failed {
				t.Errorf("%d failures and %q (%v), want %d and %q", failures, reason, err, tt.failed, tt.reason)
			}
			if err := w.Close(); err != nil && reason == "" {
				t.Errorf("close: %v", err)
			}
			w.out.Flush()
			var got []string
			r := tar.NewReader(&out)
			for {
				h, err := r.Next()
				if err != nil {
					if !errors.Is(err, io.EOF) && reason == "" {
						t.Error(err)
					}
					break
				}
				if h.Mode&0o7000 != 0 {
					t.Errorf("%s has the mode %o", h.Name, h.Mode)
				}
				got = append(got, h.Name)
			}
			if strings.Join(got, " ") != tt.want {
				t.Errorf("archive has %q, want %q", got, tt.want)
			}
		})
	}
}

// TestTarWriterFailure has a file fail when a part of it is in the archive: what
// comes after it is not harmed.
func TestTarWriterFailure(t *testing.T) {
	st, end := sent(t,
		func(h *hostile) error { return h.start("a", 3<<20, 0) },
		func(h *hostile) error { return h.piece(0, bytes.Repeat([]byte("x"), 1000), 0) },
		func(h *hostile) error {
			m := &guestv1.FileFailure{Entry: h.number, Message: "it shrank", Reason: ReasonChanged}
			return h.send(&guestv1.UploadRequest{Message: &guestv1.UploadRequest_Failure{Failure: m}})
		},
		func(h *hostile) error { return h.file("b") })
	var out bytes.Buffer
	var failure *Failure
	w := NewTarWriter(&out, &TarConfig{Names: []string{"src"}, OnDone: func(d Done) {
		if d.Failure != nil {
			failure = d.Failure
		}
	}})
	// Nothing is below a file: the source has to be a directory for both.
	if _, err := w.Receive(st); err == nil {
		t.Error("an archive without its top directory")
	}
	end()
	st, end = sent(t,
		func(h *hostile) error { return h.dir("") },
		func(h *hostile) error { return h.start("a", 3<<20, 0) },
		func(h *hostile) error { return h.piece(0, bytes.Repeat([]byte("x"), 1000), 0) },
		func(h *hostile) error {
			m := &guestv1.FileFailure{Entry: h.number, Message: "it shrank", Reason: ReasonChanged}
			return h.send(&guestv1.UploadRequest{Message: &guestv1.UploadRequest_Failure{Failure: m}})
		},
		func(h *hostile) error { return h.file("b") })
	out.Reset()
	w = NewTarWriter(&out, w.cfg)
	m, err := w.Receive(st)
	end()
	if err != nil || m.GetFailed() != 1 || m.GetFiles() != 2 || failure.Error() != "it shrank" {
		t.Errorf("%v, %v, %v", m, err, failure)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(&out)
	for _, want := range []struct {
		name string
		data []byte
	}{{"src/", nil}, {"src/a", append(bytes.Repeat([]byte("x"), 1000), make([]byte, 3<<20-1000)...)}, {"src/b", []byte("evil")}} {
		h, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if h.Name != want.name || !bytes.Equal(data, want.data) || err != nil {
			t.Errorf("%s: %d bytes, %v", h.Name, len(data), err)
		}
	}
}

// TestRelayHostile has a sender try to do harm through a relay.
func TestRelayHostile(t *testing.T) {
	tests := map[string]struct {
		steps  []func(*hostile) error
		reason string
		failed int
		pass   int // entries that the receiver gets
	}{
		"links": {steps: []func(*hostile) error{
			func(h *hostile) error { return h.dir("a") },
			func(h *hostile) error { return h.link("a/x", "../b") },
			func(h *hostile) error { return h.link("a/y", "../../b") },
			func(h *hostile) error { return h.link("l", "/etc") },
			func(h *hostile) error { return h.file("z") },
		}, failed: 2, pass: 3},
		"attributes": {steps: []func(*hostile) error{func(h *hostile) error {
			return h.entry(&guestv1.Entry{Path: []byte("a"), Xattrs: []*guestv1.TransferXattr{{Name: []byte("security.capability")}}})
		}}, pass: 1},
		"opening": {steps: []func(*hostile) error{func(h *hostile) error {
			return h.send(&guestv1.UploadRequest{Message: &guestv1.UploadRequest_Open{Open: &guestv1.UploadOpen{Destination: []byte("/etc")}}})
		}}, reason: ReasonProtocol},
		"entries without end": {steps: []func(*hostile) error{func(h *hostile) error {
			for {
				if err := h.send(&guestv1.UploadRequest{}); err != nil {
					return err
				}
			}
		}}, reason: ReasonTooMany},
		"never acknowledged": {steps: []func(*hostile) error{func(h *hostile) error {
			for {
				if err := h.dir("a"); err != nil {
					return err
				}
			}
		}}, reason: ReasonProtocol, pass: -1},
		"bytes without end": {steps: []func(*hostile) error{
			func(h *hostile) error { return h.start("a", 1<<40, 0) },
			func(h *hostile) error {
				for offset := uint64(0); ; offset += PieceBytes {
					if err := h.piece(offset, make([]byte, PieceBytes), 0); err != nil {
						return err
					}
				}
			}}, reason: ReasonTooManyBytes, pass: -1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			from, end := sent(t, tt.steps...)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			forth, back := make(chan []byte), make(chan []byte)
			to := &pipe{ctx: ctx, in: back, out: forth, ended: make(chan struct{})}
			receiver := &pipe{ctx: ctx, in: forth, out: back, ended: make(chan struct{})}
			received := make(chan struct{})
			pass, failures := 0, 0
			go func() {
				defer close(received)
				for {
					m := new(guestv1.UploadRequest)
					if receiver.RecvMsg(m) != nil {
						return
					}
					for _, e := range m.GetEntries().GetEntries() {
						pass++
						if len(e.Xattrs) > 0 {
							t.Errorf("attributes passed: %v", e.Xattrs)
						}
					}
					if m.GetOpen() != nil {
						t.Error("an opening message passed")
					}
					if m.GetFinish() != nil {
						receiver.SendMsg(&guestv1.UploadResponse{Message: &guestv1.UploadResponse_Finished{Finished: &guestv1.Finished{}}})
						return
					}
				}
			}()
			_, err := Relay(from, to, cancel, &RelayConfig{Names: []string{""}, MaxEntries: 10_000, MaxBytes: 8 << 20, OnDone: func(d Done) {
				if d.Failure != nil {
					failures++
				}
			}})
			end()
			cancel()
			<-received
			reason := ""
			if f, ok := errors.AsType[*Failure](err); ok {
				reason = f.Reason
			} else if err != nil {
				t.Fatal(err)
			}
			if reason != tt.reason || failures != tt.failed || tt.pass >= 0 && pass != tt.pass {
				t.Errorf("%d failures, %d entries and %q (%v), want %d, %d and %q", failures, pass, reason, err, tt.failed, tt.pass, tt.reason)
			}
		})
	}
}
