package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/vsockrpc/vsockrpc/internal/bulk"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// pipe is one end of a stream in memory, of messages as they are on the wire.
type pipe struct {
	ctx     context.Context
	in, out chan []byte
	ended   chan struct{} // by the sender of in
}

var _ Stream = (*pipe)(nil)

func (p *pipe) Context() context.Context { return p.ctx }

func (p *pipe) SendMsg(m any) error {
	var b []byte
	var err error
	if f, ok := m.(*bulk.Frame); ok {
		var data []byte
		b, data, err = f.MarshalBytes(nil)
		b = append(b, data...)
	} else {
		b, err = proto.Marshal(m.(proto.Message))
	}
	if err != nil {
		return err
	}
	select {
	case p.out <- b:
		return nil
	case <-p.ctx.Done():
		return p.ctx.Err()
	}
}

func (p *pipe) RecvMsg(m any) error {
	var b []byte
	select {
	case b = <-p.in:
	default:
		select {
		case b = <-p.in:
		case <-p.ended:
			return io.EOF
		case <-p.ctx.Done():
			return p.ctx.Err()
		}
	}
	if f, ok := m.(*bulk.Frame); ok {
		return f.UnmarshalBytes(mem.SliceBuffer(b))
	}
	return proto.Unmarshal(b, m.(proto.Message))
}

// hostile sends what a test wants on a stream that nobody checks.
type hostile struct {
	*pipe
	number uint64
}

func (h *hostile) send(m *guestv1.UploadRequest) error { return h.SendMsg(m) }

// entry sends an entry with the next number.
func (h *hostile) entry(e *guestv1.Entry) error {
	h.number++
	e.Number = h.number
	if e.Mode == 0 {
		e.Mode = modeRegular | 0o644
	}
	if e.Mode&modeType == modeRegular && e.Sha256 == nil {
		sum := sha256.Sum256(e.Contents)
		e.Sha256, e.Size = sum[:], uint64(len(e.Contents))
	}
	return h.send(&guestv1.UploadRequest{Message: &guestv1.UploadRequest_Entries{Entries: &guestv1.Entries{Entries: []*guestv1.Entry{e}}}})
}

func (h *hostile) file(path string) error {
	return h.entry(&guestv1.Entry{Path: []byte(path), Contents: []byte("evil")})
}

func (h *hostile) dir(path string) error {
	return h.entry(&guestv1.Entry{Path: []byte(path), Mode: modeDir | 0o755})
}

func (h *hostile) link(path, target string) error {
	return h.entry(&guestv1.Entry{Path: []byte(path), Mode: modeLink | 0o777, LinkTarget: []byte(target)})
}

func (h *hostile) start(path string, size, offset uint64) error {
	h.number++
	e := &guestv1.Entry{Number: h.number, Path: []byte(path), Mode: modeRegular | 0o644, Size: size}
	return h.send(&guestv1.UploadRequest{Message: &guestv1.UploadRequest_File{File: &guestv1.FileStart{Entry: e, Offset: offset}}})
}

func (h *hostile) piece(offset uint64, data []byte, hole uint64) error {
	return h.send(&guestv1.UploadRequest{Message: &guestv1.UploadRequest_Piece{Piece: &guestv1.Piece{Offset: offset, Data: data, Hole: hole}}})
}

func (h *hostile) finish() error {
	return h.send(&guestv1.UploadRequest{Message: &guestv1.UploadRequest_Finish{Finish: &guestv1.Finish{}}})
}

// snapshot returns the names, modes and contents below dir but for those below
// except.
func snapshot(t *testing.T, dir, except string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path == except {
			return fs.SkipDir
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		b.WriteString(path + " " + info.Mode().String())
		if info.Mode().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			b.Write(data)
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestHostileSender has a sender do all it can to have the receiver write beyond
// its destination, or without end.
func TestHostileSender(t *testing.T) {
	names := []string{"..", "../x", "../../x", "a/../../x", "/x", "/etc/x", "//x", "a//x", ".", "./x", "x/", "x/.", "x/..", "\x00", "a\x00b",
		strings.Repeat("n", 256), strings.Repeat("d/", 300) + "x", strings.Repeat("long/", 1000) + "x", tempName([16]byte{}, "x")}
	targets := []string{"/", "/etc/passwd", "..", "../x", "a/../../x", "a/..", "./..", "x/../y", "../../../../etc", "", "a\x00b"}
	type step = func(*hostile) error
	tests := map[string]struct {
		steps  []step
		reason string // of the end, or empty if it goes well but for single files
		failed bool
	}{
		"write through a link that was sent": {steps: []step{
			func(h *hostile) error { return h.link("l", "sub") },
			func(h *hostile) error { return h.file("l/x") },
		}, reason: ReasonProtocol},
		"directory over a link that was sent": {steps: []step{
			func(h *hostile) error { return h.dir("b") },
			func(h *hostile) error { return h.link("c", "b") },
			func(h *hostile) error { h.number += 5; return h.dir("c") },
		}, reason: ReasonProtocol},
		"directory over a link that was there": {steps: []step{
			func(h *hostile) error { return h.dir("out") },
			func(h *hostile) error { return h.file("out/x") },
		}, failed: true},
		"file over a link that was there": {steps: []step{func(h *hostile) error { return h.file("out") }}},
		"hard link to a link that was there": {steps: []step{func(h *hostile) error {
			return h.entry(&guestv1.Entry{Path: []byte("z"), HardLink: &guestv1.Position{Path: []byte("out/secret")}})
		}}, failed: true},
		"hard link out": {steps: []step{func(h *hostile) error {
			return h.entry(&guestv1.Entry{Path: []byte("z"), HardLink: &guestv1.Position{Path: []byte("../secret")}})
		}}, failed: true},
		"two links, each inside": {steps: []step{
			func(h *hostile) error { return h.dir("d") },
			func(h *hostile) error { return h.link("d/up", "..") },
			func(h *hostile) error { return h.link("e", "d/up/..") },
		}, failed: true},
		"device":                     {steps: []step{func(h *hostile) error { return h.entry(&guestv1.Entry{Path: []byte("dev"), Mode: modeBlock | 0o666}) }}, failed: true},
		"FIFO":                       {steps: []step{func(h *hostile) error { return h.entry(&guestv1.Entry{Path: []byte("p"), Mode: modeFIFO | 0o666}) }}, failed: true},
		"child before its directory": {steps: []step{func(h *hostile) error { return h.file("no/x") }}, reason: ReasonProtocol},
		"wrong order":                {steps: []step{func(h *hostile) error { return h.file("b") }, func(h *hostile) error { return h.file("a") }}, reason: ReasonProtocol},
		"twice":                      {steps: []step{func(h *hostile) error { return h.file("b") }, func(h *hostile) error { return h.file("b") }}, reason: ReasonProtocol},
		"number again":               {steps: []step{func(h *hostile) error { return h.file("a") }, func(h *hostile) error { h.number--; return h.file("b") }}, reason: ReasonProtocol},
		"another source":             {steps: []step{func(h *hostile) error { return h.entry(&guestv1.Entry{Source: 9, Path: []byte("a")}) }}, reason: ReasonProtocol},
		"wrong hash":                 {steps: []step{func(h *hostile) error { return h.entry(&guestv1.Entry{Path: []byte("a"), Sha256: make([]byte, 32)}) }}, failed: true},
		"more than the size":         {steps: []step{func(h *hostile) error { return h.start("a", 10, 0) }, func(h *hostile) error { return h.piece(0, make([]byte, 11), 0) }}, reason: ReasonProtocol},
		"a gap":                      {steps: []step{func(h *hostile) error { return h.start("a", 100, 0) }, func(h *hostile) error { return h.piece(50, []byte("x"), 0) }}, reason: ReasonProtocol},
		"a hole that overflows":      {steps: []step{func(h *hostile) error { return h.start("a", 100, 0) }, func(h *hostile) error { return h.piece(0, nil, math.MaxUint64) }}, reason: ReasonTooManyBytes},
		"a piece of nothing":         {steps: []step{func(h *hostile) error { return h.start("a", 100, 0) }, func(h *hostile) error { return h.piece(0, nil, 0) }}, reason: ReasonProtocol},
		"a piece of no file":         {steps: []step{func(h *hostile) error { return h.piece(0, []byte("x"), 0) }}, reason: ReasonProtocol},
		"an offset not offered":      {steps: []step{func(h *hostile) error { return h.start("a", 100, 50) }}, reason: ReasonProtocol},
		"a huge size":                {steps: []step{func(h *hostile) error { return h.start("a", math.MaxUint64, 0) }}, reason: ReasonProtocol},
		"a file in a file":           {steps: []step{func(h *hostile) error { return h.start("a", 100, 0) }, func(h *hostile) error { return h.file("b") }}, reason: ReasonProtocol},
		"an end of nothing": {steps: []step{func(h *hostile) error {
			return h.send(&guestv1.UploadRequest{Message: &guestv1.UploadRequest_End{End: &guestv1.FileEnd{}}})
		}}, reason: ReasonProtocol},
		"a second opening": {steps: []step{func(h *hostile) error {
			return h.send(&guestv1.UploadRequest{Message: &guestv1.UploadRequest_Open{Open: &guestv1.UploadOpen{}}})
		}}, reason: ReasonProtocol},
		"entries without end": {steps: []step{func(h *hostile) error {
			for {
				if err := h.send(&guestv1.UploadRequest{}); err != nil {
					return err
				}
			}
		}}, reason: ReasonTooMany},
		"failures without end": {steps: []step{func(h *hostile) error {
			for {
				h.number++
				m := &guestv1.FileFailure{Entry: h.number, Message: "\x1b[2J"}
				if err := h.send(&guestv1.UploadRequest{Message: &guestv1.UploadRequest_Failure{Failure: m}}); err != nil {
					return err
				}
			}
		}}, reason: ReasonTooMany},
		"offers without end": {steps: []step{func(h *hostile) error {
			for {
				if err := h.send(&guestv1.UploadRequest{Message: &guestv1.UploadRequest_Offer{Offer: &guestv1.Offer{}}}); err != nil {
					return err
				}
			}
		}}, reason: ReasonTooMany},
		"bytes without end": {steps: []step{
			func(h *hostile) error { return h.start("a", 1<<40, 0) },
			func(h *hostile) error {
				for offset := uint64(0); ; offset += PieceBytes {
					if err := h.piece(offset, make([]byte, PieceBytes), 0); err != nil {
						return err
					}
				}
			},
		}, reason: ReasonTooManyBytes},
	}
	for _, name := range names {
		tests["file "+name[:min(len(name), 20)]+"…"] = struct {
			steps  []step
			reason string
			failed bool
		}{steps: []step{func(h *hostile) error { return h.file(name) }}, failed: true}
	}
	for _, target := range targets {
		tests["link to "+target] = struct {
			steps  []step
			reason string
			failed bool
		}{steps: []step{func(h *hostile) error { return h.link("l", target) }}, failed: true}
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			dst := filepath.Join(dir, "dst")
			outside := filepath.Join(dir, "outside")
			for _, d := range []string{dst, outside, filepath.Join(dst, "sub")} {
				if err := os.Mkdir(d, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600), os.Symlink(outside, filepath.Join(dst, "out"))); err != nil {
				t.Fatal(err)
			}
			before := snapshot(t, dir, dst)

			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			forth, back := make(chan []byte), make(chan []byte, 1)
			ended := make(chan struct{})
			h := &hostile{pipe: &pipe{ctx: ctx, in: back, out: forth, ended: make(chan struct{})}}
			go func() {
				for {
					select {
					case <-back:
					case <-ctx.Done():
						return
					}
				}
			}()
			go func() {
				defer close(ended)
				for _, s := range tt.steps {
					if s(h) != nil {
						return
					}
				}
				h.finish()
			}()
			failures := 0
			_, err := Receive(&pipe{ctx: ctx, in: forth, out: back, ended: ended}, &ReceiveConfig{
				Destination: dst, Names: []string{""}, Options: &guestv1.TransferOptions{Sync: guestv1.SyncPolicy_SYNC_POLICY_NONE},
				MaxEntries: 10_000, MaxBytes: 8 << 20,
				OnDone: func(d Done) {
					if d.Failure != nil {
						failures++
					}
				},
			})
			cancel()
			<-ended
			reason := ""
			if f, ok := errors.AsType[*Failure](err); ok {
				reason = f.Reason
			} else if err != nil {
				t.Fatal(err)
			}
			if reason != tt.reason {
				t.Errorf("ended with %q (%v), want %q", reason, err, tt.reason)
			}
			if tt.failed && failures == 0 {
				t.Error("nobody was told of a failure")
			}
			if after := snapshot(t, dir, dst); after != before {
				t.Errorf("outside of the destination:\n%s\nbefore:\n%s", after, before)
			}
			left, _ := filepath.Glob(filepath.Join(dst, tempPrefix+"*"))
			if len(left) > 0 {
				t.Errorf("left over: %q", left)
			}
			data, err := os.ReadFile(filepath.Join(dst, "out"))
			if err == nil && !bytes.Equal(data, []byte("evil")) {
				t.Errorf("out became %q", data)
			}
		})
	}
}

func TestStaysInside(t *testing.T) {
	for target, want := range map[string]map[int]bool{
		"x": {0: true}, "a/b": {0: true}, "./a": {0: true}, "..": {0: false, 1: true}, "../..": {1: false, 2: true},
		"../a": {0: false, 1: true}, "a/..": {0: false, 5: false}, "/": {5: false}, "": {0: false}, "../a/../b": {3: false},
	} {
		for depth, inside := range want {
			if got := staysInside(depth, []byte(target)); got != inside {
				t.Errorf("%q at depth %d: %v, want %v", target, depth, got, inside)
			}
		}
	}
}
