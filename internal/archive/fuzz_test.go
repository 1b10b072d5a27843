package archive

import (
	"context"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/vsockrpc/vsockrpc/internal/bulk"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// scripted is a stream on which messages come that were made up beforehand, each
// after its length, and what is sent is thrown away.
type scripted struct {
	ctx  context.Context
	left []byte
}

var _ Stream = (*scripted)(nil)

func (s *scripted) Context() context.Context { return s.ctx }

func (s *scripted) SendMsg(m any) error {
	if f, ok := m.(*bulk.Frame); ok {
		_, _, err := f.MarshalBytes(nil)
		return err
	}
	_, err := proto.Marshal(m.(proto.Message))
	return err
}

func (s *scripted) RecvMsg(m any) error {
	n, k := binary.Uvarint(s.left)
	if k <= 0 || n > uint64(len(s.left)-k) {
		return io.EOF
	}
	b := s.left[k : k+int(n)]
	s.left = s.left[k+int(n):]
	if f, ok := m.(*bulk.Frame); ok {
		return f.UnmarshalBytes(mem.SliceBuffer(append([]byte(nil), b...)))
	}
	return proto.Unmarshal(b, m.(proto.Message))
}

// script returns messages as scripted has them.
func script[M proto.Message](f *testing.F, messages ...M) []byte {
	var out []byte
	for _, m := range messages {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		out = append(binary.AppendUvarint(out, uint64(len(b))), b...)
	}
	return out
}

// FuzzReceive has anything come from a sender: the receiver does not panic, stays
// within its caps, and touches nothing beside the destination.
func FuzzReceive(f *testing.F) {
	type request = guestv1.UploadRequest
	entry := func(e *guestv1.Entry) *request {
		return &request{Message: &guestv1.UploadRequest_Entries{Entries: &guestv1.Entries{Entries: []*guestv1.Entry{e}}}}
	}
	start := func(e *guestv1.Entry, offset uint64) *request {
		return &request{Message: &guestv1.UploadRequest_File{File: &guestv1.FileStart{Entry: e, Offset: offset}}}
	}
	piece := func(offset uint64, data []byte, hole uint64) *request {
		return &request{Message: &guestv1.UploadRequest_Piece{Piece: &guestv1.Piece{Offset: offset, Data: data, Hole: hole}}}
	}
	hash := newRolling(false)
	hash.write([]byte("hello"))
	hash.hole(100)
	end := &request{Message: &guestv1.UploadRequest_End{End: &guestv1.FileEnd{Size: 105, Sha256: hash.sum().sha256}}}
	finish := &request{Message: &guestv1.UploadRequest_Finish{Finish: &guestv1.Finish{Entries: 9}}}
	file := &guestv1.Entry{Number: 2, Path: []byte("d/f"), Mode: modeRegular | 0o644, Size: 105}
	dir := &guestv1.Entry{Number: 1, Path: []byte("d"), Mode: modeDir | 0o755}
	f.Add(script(f, entry(dir), start(file, 0), piece(0, []byte("hello"), 0), piece(5, nil, 100), end, finish), true)
	f.Add(script(f, &request{Message: &guestv1.UploadRequest_Offer{Offer: &guestv1.Offer{Entries: []*guestv1.Entry{dir, file}}}}, entry(dir), start(file, 3), end), false)
	f.Add(script(f, entry(&guestv1.Entry{Number: 1, Path: []byte("l"), Mode: modeLink | 0o777, LinkTarget: []byte("../outside")}),
		entry(&guestv1.Entry{Number: 2, Path: []byte("l/secret"), Mode: modeRegular | 0o644})), true)
	f.Add(script(f, entry(&guestv1.Entry{Number: 1, Path: []byte("out/secret"), Mode: modeRegular | 0o644}),
		entry(&guestv1.Entry{Number: 2, Path: []byte("h"), HardLink: &guestv1.Position{Path: []byte("out/secret")}})), false)
	f.Add(script(f, &request{Message: &guestv1.UploadRequest_Failure{Failure: &guestv1.FileFailure{Entry: 1, Code: 99}}}, finish), true)
	base := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte, trusted bool) {
		dir, err := os.MkdirTemp(base, "")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		dst, secret := filepath.Join(dir, "dst"), filepath.Join(dir, "outside", "secret")
		for _, err := range []error{os.Mkdir(dst, 0o755), os.Mkdir(filepath.Dir(secret), 0o755), os.WriteFile(secret, []byte("secret"), 0o600), os.Symlink("../outside", filepath.Join(dst, "out"))} {
			if err != nil {
				t.Fatal(err)
			}
		}
		before := snapshot(t, dir, dst)
		const most = 1 << 20
		written := uint64(0)
		_, err = Receive(&scripted{ctx: t.Context(), left: data}, &ReceiveConfig{
			Destination: dst, Names: []string{""}, Resume: len(data)%2 == 0, Trusted: trusted,
			Options:    &guestv1.TransferOptions{Sync: guestv1.SyncPolicy_SYNC_POLICY_NONE, Archive: len(data)%3 == 0, Checksum: len(data)%5 == 0},
			MaxEntries: 100, MaxBytes: most,
			OnDone: func(d Done) { written += d.Bytes },
		})
		if err != nil && err.Error() == "" {
			t.Error("an error without a text")
		}
		if written > most {
			t.Errorf("%d bytes were written, of at most %d", written, most)
		}
		if after := snapshot(t, dir, dst); after != before {
			t.Errorf("outside of the destination:\n%s\nbefore:\n%s", after, before)
		}
	})
}

// FuzzSend has anything come from a receiver: the sender does not panic, and
// ends.
func FuzzSend(f *testing.F) {
	type response = guestv1.UploadResponse
	ready := &response{Message: &guestv1.UploadResponse_Ready{Ready: &guestv1.Ready{Window: 1 << 20}}}
	finished := &response{Message: &guestv1.UploadResponse_Finished{Finished: &guestv1.Finished{Files: 2}}}
	f.Add(script(f, ready, &response{Message: &guestv1.UploadResponse_Acknowledge{Acknowledge: &guestv1.Acknowledge{Bytes: 5, Entries: 1}}}, finished), false)
	f.Add(script(f, ready, &response{Message: &guestv1.UploadResponse_Decision{Decision: &guestv1.Decision{Wanted: []*guestv1.Wanted{{Number: 2, Offset: 70_000, Sha256: make([]byte, 32)}}}}}), true)
	f.Add(script(f, ready, &response{Message: &guestv1.UploadResponse_Failure{Failure: &guestv1.FileFailure{Entry: 1, Message: "no"}}}, finished), true)
	src := f.TempDir()
	for name, size := range map[string]int{"a": 5, "b": 100_000} {
		if err := os.WriteFile(filepath.Join(src, name), make([]byte, size), 0o600); err != nil {
			f.Fatal(err)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, resume bool) {
		_, err := Send(&scripted{ctx: t.Context(), left: data}, &SendConfig{Sources: []Source{{Path: src, Contents: true}}, Resume: resume, Options: &guestv1.TransferOptions{}})
		if err != nil && err.Error() == "" {
			t.Error("an error without a text")
		}
	})
}
